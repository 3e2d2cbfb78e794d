"""Layers made fast: the encoder's and the LSTM by compiled kernels on the CPU, the encoder's unpadded on CUDA."""
