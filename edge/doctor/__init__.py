"""`edge doctor`: what is wrong with this machine and this installation, and how to mend it.

Each check looks at one thing and says how it stands, with a fix where there is something to do. What cannot
be told here (another system, a container that hides it) is left out rather than guessed. `edge.gpu_proof` is
what `--gpu` adds.
"""
