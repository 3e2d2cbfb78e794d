"""Which classification head is better, and is the difference real?"""
