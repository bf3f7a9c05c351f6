"""Models into other models that compute the same, proved before anything is written."""
