"""`edge bench accuracy`: every model over every set of frames, learned and judged as the commands do it.

`frame_sets` reads manifests, `folds` says what is learned from and what is tested, `runs` does one of those,
`ledger` keeps what came out, `figures` pools the runs, `table` writes them down, `cli` is the command.
"""
