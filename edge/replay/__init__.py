"""Judging again what was judged before: what would a new engine or calibration change?"""
