def page(): return "# Measured\n"
