"""What a search leaves behind: its history, the front, drawings and the report."""
