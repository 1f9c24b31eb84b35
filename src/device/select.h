/* What a device reports of itself.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_SELECT_H
#define CLORA_DEVICE_SELECT_H

#include "clora.h"

/* Fills everything but the platform and device index. */
void clora__device_describe(cl_device_id id, clora_device *device);

/* Whether it speaks OpenCL 1.2 or newer. Mesa's Clover, 1.1, aborts the process on some kernels. */
bool clora__device_is_current(const clora_device *device);

#endif
