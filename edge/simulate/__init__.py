"""The scanner simulator: frames into a folder as a scanner would write them, with the truth beside them."""
