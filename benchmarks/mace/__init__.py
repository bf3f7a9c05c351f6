"""Models of mace-torch beside their conversions: accuracy (``make.py``, ``compare.py``) and speed (``speed.py``)."""
