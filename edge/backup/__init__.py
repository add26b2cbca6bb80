"""`edge backup` and `edge restore`: a site in one file, and a site out of one."""
