"""Whether each recipe's engine, as the daemon would run it here, gives its golden answers."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config import Settings
from edge.doctor.finding import Finding
from edge.errors import EdgeError


def check_agreement(settings: Settings) -> Iterator[Finding]:
    """The golden pair of every recipe that sources use, on the runtime and in the precision that would judge.

    A recipe that cannot be opened is a fault of the site, which `check_config` tells: nothing is said here.
    """
    from edge.infer.compile import prove
    from edge.recipes import open_recipe

    for name in dict.fromkeys(source.recipe for source in settings.source):
        heard: list[str] = []
        try:
            inspector = open_recipe(settings, name, note=heard.append)
        except EdgeError:
            continue
        bundle, runtime = inspector.bundle, inspector.runtime
        how = f"{runtime.name} {runtime.precision}"
        try:
            difference = prove(bundle, runtime)
        except EdgeError as error:
            fix = error.hint or 'set precision = "fp32" under [runtime]'
            yield Finding(f"engine {name}", "fault", f"{how}: {error.message}", fix)
            continue
        says = f"{how}: golden pair within {difference:.2g} of {bundle.tolerance_of(runtime.precision):.2g}"
        if inspector.replaced_because:
            fix = "see `edge doctor --gpu`"
            yield Finding(f"engine {name}", "warning", f"{says}; {inspector.replaced_because}", fix)
        elif heard:
            fix = "nothing needs doing while it judges fast enough; edge compile makes faster precisions anew"
            yield Finding(f"engine {name}", "note", f"{says}; {'; '.join(heard)}", fix)
        else:
            yield Finding(f"engine {name}", "ok", says)
