/* The files of a merge: shards and their index, interruptions and failures.
 * SPDX-License-Identifier: Apache-2.0 */
#include "merge_test.h"

#include "base/os.h"

START_TEST(merges_shards_into_a_folder) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  make_shards();
  ck_ok(merge_into(&adapter, own("base"), own("out"), NULL)); /* by the folder */
  ck_assert_uint_eq(count_files(own("out")), 3);
  ck_same_files(own("base/b.safetensors"), own("out/b.safetensors"));
  ck_same_files(own("base/model.safetensors.index.json"), own("out/model.safetensors.index.json"));
  ck_same_elsewhere(own("base/a.safetensors"), own("out/a.safetensors"), "model.m.q.weight");
  ck_assert_uint_eq(count_files(own_folder), 2);
  ck_fails(merge_into(&adapter, own("base"), own("out"), NULL), CLORA_IO_FAILURE,
           "out: exists already");
  ck_ok(merge_into(&adapter, own("base/model.safetensors.index.json"), own("out2/"), NULL));
  ck_same_files(own("out/a.safetensors"), own("out2/a.safetensors"));
  const char *files[] = {own("base/a.safetensors"), own("base/b.safetensors")};
  struct clora__base base;
  ck_ok(clora__base_open(files, 2, &base));
  ck_ok(clora__merge(&adapter, &base, own("out3"), NULL, NULL));
  ck_assert_uint_eq(count_files(own("out3")), 2); /* no index was given */
  ck_same_files(own("out/a.safetensors"), own("out3/a.safetensors"));
  clora__base_close(&base);
  clora__host_free(&adapter);
}
END_TEST

/* Names of tensors are names, never paths; what becomes part of a path is refused. */
START_TEST(takes_no_tensor_name_for_a_path) {
  static const char *const odd[] = {"..", ".", "../../m.q.weight", "/m.q", "m.q.weight", "a/../.."};
  static const size_t odd_shapes[][2] = {{1, 2}, {1, 2}, {2, 3}, {1, 2}, {2, 3}, {1, 2}};
  static const clora_dtype dtypes[] = {CLORA_F32, CLORA_F32, CLORA_F32,
                                       CLORA_F32, CLORA_F32, CLORA_F32};
  static const char *const no_shards[] = {"..", ".", "../b.safetensors", "/b.safetensors", ""};
  static const char *const no_names[] = {"..", ".", "../adapter", "/tmp", ""};
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  make_shards();
  mkdir(own("odd"), 0777);
  write_base(own("odd/odd.safetensors"), odd, dtypes, odd_shapes, 6, 1);
  const char *files[] = {own("odd/odd.safetensors"), own("base/b.safetensors")};
  struct clora__base base;
  ck_ok(clora__base_open(files, 2, &base));
  ck_ok(clora__merge(&adapter, &base, own("out"), NULL, NULL));
  clora__base_close(&base);
  ck_assert_uint_eq(count_files(own("out")), 2);
  ck_assert_uint_eq(count_files(own_folder), 3);
  ck_same_elsewhere(files[0], own("out/odd.safetensors"), "m.q.weight");
  for (size_t n = 0; n < sizeof no_shards / sizeof *no_shards; n++) {
    char index[200];
    const char *path = own("base/odd.index.json");
    snprintf(index, sizeof index, "{\"weight_map\": {\"..\": \"%s\"}}", no_shards[n]);
    write_text(path, index);
    ck_fails(clora__base_open(&path, 1, &base), CLORA_BAD_FILE, "is not a plain file name");
  }
  for (size_t n = 0; n < sizeof no_names / sizeof *no_names; n++) {
    const clora_load_options options = {.name = no_names[n]};
    struct clora__host_adapter none = {0};
    ck_fails(clora__format_load(own("out"), &options, &none), CLORA_INVALID_ARGUMENT,
             "cannot be the name of an adapter");
  }
  clora__host_free(&adapter);
}
END_TEST

/* Safetensors under another name, or in a folder called a file, is what nobody looks for. */
START_TEST(refuses_endings_of_other_files) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  write_base(own("one"), names, f32, shapes, 3, 1);
  make_shards();
  ck_fails(
      merge_into(&adapter, own("one"), own("x.gguf"), NULL), CLORA_INVALID_ARGUMENT,
      "x.gguf: a base of one file is merged into one: end its name in .safetensors, not .gguf");
  ck_fails(
      merge_into(&adapter, own("base"), own("x.safetensors"), NULL), CLORA_INVALID_ARGUMENT,
      "several shards are merged into a folder, whose name has no ending such as .safetensors");
  ck_assert_uint_eq(count_files(own_folder), 2);
  ck_ok(merge_into(&adapter, own("one"), own("v1.5"), NULL));
  ck_ok(merge_into(&adapter, own("base"), own("v2.5"), NULL));
  clora__host_free(&adapter);
}
END_TEST

START_TEST(leaves_the_base_alone) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  write_base(own("base.safetensors"), names, f32, shapes, 3, 1);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("base.safetensors"), NULL),
           CLORA_INVALID_ARGUMENT, "is the base itself");
  ck_assert_int_eq(symlink("base.safetensors", own("link")), 0);
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("link"), NULL), CLORA_INVALID_ARGUMENT,
           "is the base itself");
  /* two layers for one tensor */
  struct clora__host_layer *layer;
  clora_adapter_layer about = adapter.items[0].about;
  about.name = "model.m.q";
  ck_ok(clora__host_add(&adapter, &about, &layer));
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "of the adapter belongs to the base's");
  clora__host_free(&adapter);
  make_adapter(&adapter, 1)->b[0] = 3e38f;
  ck_fails(merge_into(&adapter, own("base.safetensors"), own("out.safetensors"), NULL),
           CLORA_UNSUPPORTED, "row 0, column 0 of the merged weight is");
  ck_assert_uint_eq(count_files(own_folder), 2);
  clora__host_free(&adapter);
}
END_TEST

/* Whatever its format and by whatever name: what is read from is not written to. */
START_TEST(leaves_the_adapter_alone) {
  static const struct {
    const char *adapter, *file;
  } rows[] = {{"a", "a/adapter_config.json"},
              {"a", "a/adapter_model.safetensors"},
              {"a.safetensors", "a.safetensors"},
              {"a.gguf", "a.gguf"},
              {"a.A.npy", "a.A.npy"},
              {"a.A.npy", "a.B.npy"}};
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1)->about.scale = 1;
  adapter.items[0].about.alpha = 2;
  write_base(own("base.safetensors"), names, f32, shapes, 3, 1);
  for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
    struct clora__host_adapter read = {0};
    ck_ok(clora__format_save(own(rows[n].adapter), NULL, &adapter));
    ck_ok(clora__format_load(own(rows[n].adapter), NULL, &read));
    ck_assert_int_eq(symlink(own(rows[n].file), own("link")), 0);
    ck_assert_int_eq(link(own(rows[n].file), own("hard")), 0);
    const char *const outputs[] = {own(rows[n].file), own("link"), own("hard")};
    for (size_t i = 0; i < 3; i++) {
      ck_fails(merge_into(&read, own("base.safetensors"), outputs[i], NULL), CLORA_INVALID_ARGUMENT,
               "is the adapter's own file");
    }
    ck_assert_int_eq(unlink(own("link")) + unlink(own("hard")), 0);
    clora__host_free(&read);
    ck_ok(clora__format_load(own(rows[n].adapter), NULL, &read));
    clora__host_free(&read);
  }
  clora__host_free(&adapter);
}
END_TEST

static bool stop_after(uint64_t done, uint64_t total, void *user) {
  ck_assert_uint_le(done, total);
  return --*(int *)user > 0;
}

START_TEST(can_be_stopped) {
  struct clora__host_adapter adapter;
  struct clora__base base;
  make_adapter(&adapter, 1);
  make_shards();
  const char *path = own("base");
  ck_ok(clora__base_open(&path, 1, &base));
  clora_status status = CLORA_CANCELLED;
  int calls = 0;
  while (status != CLORA_OK) {
    int left = ++calls;
    const clora_merge_options options = {.progress = stop_after, .user = &left};
    status = clora__merge(&adapter, &base, own("out"), &options, NULL);
    if (status != CLORA_OK) {
      ck_fails(status, CLORA_CANCELLED, "the merge was stopped after");
      ck_assert_uint_eq(count_files(own_folder), 1);
    }
  }
  ck_assert_int_gt(calls, 3);
  clora__base_close(&base);
  clora__host_free(&adapter);
}
END_TEST

/* Memory, reads, writes, syncs, renames: the result is whole or is not there. */
START_TEST(survives_every_fault) {
  struct clora__host_adapter adapter;
  make_adapter(&adapter, 1);
  make_shards();
  ck_ok(merge_into(&adapter, own("base"), own("whole"), NULL));
  clora_status status = CLORA_IO_FAILURE;
  long k = 0;
  while (status != CLORA_OK) {
    struct clora__base base;
    const char *path = own("base");
    clora__fault_at(++k);
    status = clora__base_open(&path, 1, &base);
    if (status == CLORA_OK) status = clora__merge(&adapter, &base, own("out"), NULL, NULL);
    clora__fault_at(0);
    clora__base_close(&base);
    size_t files = count_files(own_folder);
    if (files == 3) { /* the sync of the folder above failed after the rename */
      ck_assert_uint_eq(count_files(own("out")), 3);
      ck_same_files(own("out/a.safetensors"), own("whole/a.safetensors"));
      if (status != CLORA_OK) remove_tree(own("out"));
    } else {
      ck_assert_uint_eq(files, 2);
    }
  }
  ck_assert_int_gt(k, 60);
  clora__host_free(&adapter);
}
END_TEST

TEST_MAIN("merge_files", merges_shards_into_a_folder, takes_no_tensor_name_for_a_path,
          refuses_endings_of_other_files, leaves_the_base_alone, leaves_the_adapter_alone,
          can_be_stopped, survives_every_fault)
