// Marks the functions that are compiled for the host and for CUDA devices from one source.
#pragma once

#if defined(__CUDACC__)
#define TRANSFER_HOST_DEVICE __host__ __device__
#else
#define TRANSFER_HOST_DEVICE
#endif

// Always inlined: on the host each caller compiles the body for its own instruction set, on the
// device a call would spill the caller's registers.
#define TRANSFER_HD TRANSFER_HOST_DEVICE inline __attribute__((always_inline))

// Before a loop over eight lanes that shift by different amounts: once GCC has unrolled it, it does
// not find the vector shift in it any more.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define TRANSFER_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define TRANSFER_KEEP_LOOP
#endif
