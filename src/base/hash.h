/* FNV-1a (Fowler, Noll, Vo; 64 bits): tells texts apart. No protection against a forger.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BASE_HASH_H
#define CLORA_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define CLORA__HASH_START 0xcbf29ce484222325u

/* The hash of what was hashed before and these bytes. */
static inline uint64_t clora__hash(uint64_t hash, const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
  }
  return hash;
}

#endif
