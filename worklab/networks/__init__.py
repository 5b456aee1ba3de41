"""Concrete Networks, one file each."""
