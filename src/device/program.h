/* Built kernels of a context: each is one source with one set of knobs, built and checked once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_PROGRAM_H
#define CLORA_DEVICE_PROGRAM_H

#include "device/context.h"

#define CLORA__KNOB_LIMIT 8
#define CLORA__OPTIONS_LIMIT 640 /* bytes of build options */

/* What a kernel is built with: the dtypes of its three matrices, and values that become -D NAME. */
struct clora__knobs {
  clora_dtype in, weight, out;
  unsigned count;
  struct clora__knob {
    const char *name; /* static text; in small letters: a part of the key, not of the build */
    unsigned value;
    bool is_free; /* any value computes any problem, and in the same bits */
  } list[CLORA__KNOB_LIMIT];
};

void clora__knob(struct clora__knobs *knobs, const char *name, unsigned value);
void clora__free_knob(struct clora__knobs *knobs, const char *name, unsigned value);
unsigned clora__knob_value(const struct clora__knobs *knobs, const char *name);

/* Gives a knob another value; false when there is none of that name. */
bool clora__knob_set(struct clora__knobs *knobs, const char *name, unsigned value);
bool clora__knobs_equal(const struct clora__knobs *a, const struct clora__knobs *b);

/* Equal but for free knobs: a kernel with the knobs a serves a problem that asks for b. */
bool clora__knobs_serve(const struct clora__knobs *a, const struct clora__knobs *b);

/* "-D IN=F32 -D WEIGHT=F16 -D OUT=F32 -D ROWS=12": the build options; and for messages, with the
 * knobs that the compiler does not see. */
void clora__knobs_options(const struct clora__knobs *knobs, char *text, size_t size);
void clora__knobs_text(const struct clora__knobs *knobs, char *text, size_t size);

/* A source built with these options, for as long as the context. */
struct clora__program {
  struct clora__program *next;
  const char *source;
  char options[CLORA__OPTIONS_LIMIT];
  cl_program program;
};

void clora__programs_destroy(struct clora__program *programs);

/* One built kernel and its verdict. It lives as long as the context. */
struct clora__kernel {
  struct clora__kernel *next;
  const char *source, *function; /* the key, with the knobs; source may be NULL: a library's */
  struct clora__knobs knobs;
  pthread_mutex_t preparing; /* held while it is built and checked */
  pthread_mutex_t launching; /* held from the first argument to the enqueue */
  _Atomic enum clora__verdict verdict;
  bool unfinished;                /* refused because a check in another process did not finish, */
  bool tried_again;               /* and checked all the same, for want of anything better */
  char reason[CLORA__TEXT_LIMIT]; /* why it was refused; written before the verdict */
  double error;                   /* the largest error over the bound that the check saw */
  cl_kernel kernel;
  size_t group_size; /* what this kernel allows on this device, in work-items */
};

/* The entry of this key, made when it is new; the list is the context's. */
clora_status clora__kernel_find(clora_context *context, const char *source, const char *function,
                                const struct clora__knobs *knobs, struct clora__kernel **kernel);

/* Makes the kernel, and builds its program when none of the context's is the same. A compiler's
 * refusal puts its log in the error text. */
clora_status clora__kernel_build(clora_context *context, struct clora__kernel *kernel);

/* Releases the kernel: it was refused, or memory was too short to finish the check. */
void clora__kernel_unbuild(struct clora__kernel *kernel);

void clora__kernels_destroy(struct clora__kernel *kernels);

/* What problems a tuning is for: the dtypes, and sizes rounded up, rows to a power of four and the
 * others to a power of two. r is the number of rows of `weight`. */
struct clora__class {
  clora_dtype in, weight, out;
  bool turned; /* the weight, of a forward A, is transposed: another kernel is built */
  size_t rows, inner, r, cols;
};

/* Values of free knobs that were measured to be faster than those of the rules. The context's list
 * begins with the newest. */
struct clora__tuning {
  struct clora__tuning *next;
  char function[64]; /* of the kernel */
  uint64_t source;   /* the hash of its source */
  atomic_int suits;  /* whether the row can take it: 0 not looked at, 1 yes, -1 no */
  struct clora__class class;
  unsigned count;
  struct {
    char name[32];
    unsigned value;
  } knobs[CLORA__KNOB_LIMIT];
  double gain; /* the rules' time over its own */
};

void clora__tunings_destroy(struct clora__tuning *tunings);

#endif
