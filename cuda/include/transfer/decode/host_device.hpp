// Marks the functions that are compiled for the host and for CUDA devices from one source.
#pragma once

#if defined(__CUDACC__)
#define TRANSFER_HOST_DEVICE __host__ __device__
#else
#define TRANSFER_HOST_DEVICE
#endif

// Always inlined. On the host, each caller then compiles the body for its own instruction set. On
// the device, a call would spill the caller's registers.
#define TRANSFER_HD TRANSFER_HOST_DEVICE inline __attribute__((always_inline))

// For a loop over eight lanes with different shifts: if GCC unrolls it, it no longer finds the
// vector shift.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define TRANSFER_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define TRANSFER_KEEP_LOOP
#endif
