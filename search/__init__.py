"""Controllers propose networks; the loop has them scored and remembers."""
