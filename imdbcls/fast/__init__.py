"""Faster exact computation on the CPU: the encoder's layers, attention, dropout masks, the allocator."""
