"""Kernels of our own for GPUs, in Triton: one file each, all of the same build.

A file defines its kernel by a plain PyTorch *reference*, then the Triton kernel, its launcher, its
backward pass where training uses it, and its count of FLOPs; `registration.register` makes an
operator `torch.ops.chimera.<name>` of them. On a CPU the operator is the reference; with
`TRITON_INTERPRET=1` it is the Triton kernel under the interpreter: so tests run it without
a GPU. Importing a kernel's file needs Triton; importing this package does not.

`twins.accelerate` puts kernels into the modules of operators, which stay plain PyTorch themselves.
"""
