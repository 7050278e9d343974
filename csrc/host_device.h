// Functions that nvcc also compiles for the device.
#pragma once

#ifdef __CUDACC__
#define DAPT_HOST_DEVICE __host__ __device__
#else
#define DAPT_HOST_DEVICE
#endif
