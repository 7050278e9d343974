// Functions of which nvcc makes a device version, too.
#pragma once

#ifdef __CUDACC__
#define DAPT_HOST_DEVICE __host__ __device__
#else
#define DAPT_HOST_DEVICE
#endif
