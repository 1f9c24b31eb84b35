/* Memory and files: what they do, and what is left when the k-th call fails.
 * SPDX-License-Identifier: Apache-2.0 */
#include "clora_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

#include "base/os.h"
#include "files.h"

/* AddressSanitizer is to return NULL for impossible sizes, as the C library does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

START_TEST(allocates_zeroed_memory) {
  unsigned char *memory, zero[64] = {0};
  ck_ok(clora__allocate(16, 4, &memory));
  ck_assert_mem_eq(memory, zero, sizeof zero);
  free(memory);
  ck_ok(clora__allocate(0, 4, &memory));
  ck_assert_ptr_nonnull(memory);
  free(memory);
  ck_fails(clora__allocate(SIZE_MAX, 8, &memory), CLORA_OUT_OF_MEMORY,
           "no memory for 18446744073709551615 elements of 8 bytes");
  ck_assert_ptr_null(memory);
  ck_fails(clora__allocate(SIZE_MAX / 8, 8, &memory), CLORA_OUT_OF_MEMORY, "no memory");
}
END_TEST

START_TEST(faults_come_at_the_kth_call) {
  ck_assert(!clora__fault());
  clora__fault_at(3);
  ck_assert(!clora__fault());
  ck_assert(!clora__fault());
  ck_assert(clora__fault());
  ck_assert(clora__fault()); /* and stay */
  ck_assert_int_eq(clora__fault_at(5), -1);
  ck_assert(!clora__fault());
  ck_assert_int_eq(clora__fault_at(0), 4);
  ck_assert(!clora__fault());
  ck_assert_int_eq(clora__fault_only_at(2), 0);
  ck_assert(!clora__fault());
  ck_assert(clora__fault());
  ck_assert(!clora__fault()); /* once */
  ck_assert_int_eq(clora__fault_at(0), 0);
}
END_TEST

static void *fault_elsewhere(void *count) {
  for (int n = 0; n < 10; n++) *(int *)count += clora__fault();
  return NULL;
}

START_TEST(faults_belong_to_threads) {
  pthread_t thread;
  int count = 0;
  clora__fault_at(1);
  ck_assert_int_eq(pthread_create(&thread, NULL, fault_elsewhere, &count), 0);
  pthread_join(thread, NULL);
  ck_assert_int_eq(count, 0);
  ck_assert(clora__fault());
}
END_TEST

START_TEST(reads_files) {
  struct clora__file file;
  char data[8] = "";
  write_file(own("ten"), "0123456789", 10);
  ck_ok(clora__file_open(own("ten"), &file));
  ck_assert_uint_eq(file.size_bytes, 10);
  ck_ok(clora__file_read(&file, 3, data, 4));
  ck_assert_str_eq(data, "3456");
  ck_ok(clora__file_read(&file, 10, data, 0));
  ck_fails(clora__file_read(&file, 8, data, 4), CLORA_IO_FAILURE, "ends at byte 10, 12 expected");
  ck_fails(clora__file_read(&file, 1000, data, 1), CLORA_IO_FAILURE, "ends at byte 1000");
  clora__file_close(&file);
  clora__file_close(&file);
}
END_TEST

START_TEST(opens_regular_files_alone) {
  struct clora__file file;
  ck_fails(clora__file_open(own("none"), &file), CLORA_IO_FAILURE, "none: cannot open: No such");
  ck_fails(clora__file_open(own_folder, &file), CLORA_IO_FAILURE, "not a regular file");
  ck_fails(clora__file_open("/dev/null", &file), CLORA_IO_FAILURE, "not a regular file");
  ck_assert_int_eq(mkfifo(own("fifo"), 0600), 0);
  ck_fails(clora__file_open(own("fifo"), &file), CLORA_IO_FAILURE, "not a regular file");
}
END_TEST

static clora_status write_output(const char *path, const char *text) {
  struct clora__output output;
  clora_status status = clora__output_open(path, &output);
  if (status == CLORA_OK) status = clora__output_write(&output, text, strlen(text));
  if (status == CLORA_OK) status = clora__output_commit(&output);
  clora__output_discard(&output);
  return status;
}

static void ck_holds(const char *path, const char *text) {
  size_t bytes;
  char *file = read_file(path, &bytes);
  ck_assert_str_eq(file, text);
  free(file);
}

static unsigned mode_of(const char *path) {
  struct stat about;
  ck_assert_int_eq(stat(path, &about), 0);
  return about.st_mode & 0777;
}

START_TEST(outputs_appear_complete_or_not_at_all) {
  struct clora__output output;
  const char *path = own("out");
  ck_ok(clora__output_open(path, &output));
  ck_ok(clora__output_write(&output, "half", 4));
  ck_assert_int_ne(access(path, F_OK), 0);
  clora__output_discard(&output);
  clora__output_discard(&output);
  ck_assert_uint_eq(count_files(own_folder), 0);
  ck_ok(write_output(path, "first"));
  ck_holds(path, "first");
  ck_ok(write_output(path, "second"));
  ck_holds(path, "second");
  ck_assert_uint_eq(count_files(own_folder), 1);
  struct clora__output zeroed = {0};
  clora__output_discard(&zeroed);
}
END_TEST

/* What a killed process left goes with the next output to the path; what is written at the moment,
 * and what is somebody else's, stays. */
START_TEST(leftovers_go_with_the_next_output) {
  struct clora__output live;
  struct clora__output_folder live_folder;
  const char *path = own("out"), *folder = own("folder");
  for (int n = 0; n < 3; n++) {
    pid_t child = fork();
    if (child == 0) {
      struct clora__output_folder dying_folder;
      bool opened = clora__output_open(path, &live) == CLORA_OK &&
                    clora__output_write(&live, "half", 4) == CLORA_OK &&
                    clora__output_folder_open(folder, &dying_folder) == CLORA_OK;
      char *inside;
      if (opened) opened = clora__join(dying_folder.temporary, "half", &inside) == CLORA_OK;
      if (opened) fclose(fopen(inside, "w"));
      _exit(opened ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    ck_assert_int_eq(status, 0);
    ck_assert_uint_eq(count_files(own_folder), 2); /* the last one's */
  }
  write_file(own("out.3fa2b1"), "", 0);
  write_file(own("out.clora-notes"), "", 0);
  write_file(own("other.clora-3fa2b1"), "", 0);
  ck_ok(clora__output_open(path, &live));
  ck_ok(clora__output_folder_open(folder, &live_folder));
  ck_assert_uint_eq(count_files(own_folder), 5);
  ck_ok(write_output(path, "second"));
  struct clora__output_folder second;
  ck_ok(clora__output_folder_open(folder, &second));
  ck_ok(clora__output_folder_commit(&second));
  ck_assert_uint_eq(count_files(own_folder), 7); /* the live ones too */
  clora__output_folder_discard(&live_folder);
  ck_ok(clora__output_write(&live, "live", 4));
  ck_ok(clora__output_commit(&live));
  ck_holds(path, "live");
  ck_assert_uint_eq(count_files(own_folder), 5); /* out, folder and what is not ours */
}
END_TEST

START_TEST(outputs_have_the_mode_of_the_file_or_of_the_umask) {
  const char *path = own("mode");
  umask(027);
  ck_ok(write_output(path, "new"));
  ck_assert_uint_eq(mode_of(path), 0640);
  ck_assert_int_eq(chmod(path, 0604), 0);
  ck_ok(write_output(path, "old"));
  ck_assert_uint_eq(mode_of(path), 0604);
  ck_assert_uint_eq(umask(0), 027);
}
END_TEST

START_TEST(faults_leave_the_old_file_and_no_other) {
  const char *path = own("fault");
  ck_ok(write_output(path, "old"));
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    clora__fault_at(++k);
    status = write_output(path, "new text");
    clora__fault_at(0);
    ck_assert_uint_eq(count_files(own_folder), 1);
    size_t bytes;
    char *text = read_file(path, &bytes);
    bool is_old = strcmp(text, "old") == 0, is_new = strcmp(text, "new text") == 0;
    ck_assert_msg(is_new || (is_old && status != CLORA_OK), "fault %ld left \"%s\"", k, text);
    free(text);
    if (is_new && status != CLORA_OK) ck_ok(write_output(path, "old")); /* the last sync failed */
  }
  ck_assert_int_gt(k, 7);
}
END_TEST

START_TEST(outputs_fail_with_the_path_and_the_reason) {
  ck_fails(write_output(own("no/such/folder"), "x"), CLORA_IO_FAILURE,
           "no/such/folder: cannot create a file beside it: No such file");
  ck_ok(clora__directory(own("folder")));
  ck_fails(write_output(own("folder"), "x"), CLORA_IO_FAILURE,
           "folder: exists and is no regular file");
  ck_assert_uint_eq(count_files(own_folder), 1);
  struct clora__output output = {.descriptor = open("/dev/full", O_WRONLY), .path = "full"};
  ck_assert_int_ge(output.descriptor, 0);
  ck_fails(clora__output_write(&output, "x", 1), CLORA_IO_FAILURE, "full: cannot write: No space");
  close(output.descriptor);
}
END_TEST

START_TEST(makes_directories) {
  ck_ok(clora__directory(own("a")));
  ck_ok(clora__directory(own("a")));
  ck_assert(clora__is_directory(own("a")));
  ck_fails(clora__directory(own("b/c")), CLORA_IO_FAILURE, "cannot make the directory");
  write_file(own("file"), "", 0);
  ck_assert(!clora__is_directory(own("file")));
  ck_assert(!clora__is_directory(own("none")));
  ck_fails(clora__directory(own("file")), CLORA_IO_FAILURE, "File exists");
}
END_TEST

START_TEST(knows_process_and_time) {
  long parent = clora__process();
  pid_t child = fork();
  if (child == 0) _exit(clora__process() != parent ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  ck_assert_int_eq(status, 0);
  uint64_t before = clora__clock_ns();
  nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  ck_assert_uint_ge(clora__clock_ns() - before, 2000000);
}
END_TEST

TEST_MAIN("os", allocates_zeroed_memory, faults_come_at_the_kth_call, faults_belong_to_threads,
          reads_files, opens_regular_files_alone, outputs_appear_complete_or_not_at_all,
          leftovers_go_with_the_next_output, outputs_have_the_mode_of_the_file_or_of_the_umask,
          faults_leave_the_old_file_and_no_other, outputs_fail_with_the_path_and_the_reason,
          makes_directories, knows_process_and_time)
