"""The op on an NVIDIA GPU: where its kernels come from, how they are chosen, and how they are launched."""
