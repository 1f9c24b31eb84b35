# Fails when a file includes something from a layer above it. Layers, lowest first: base | file and
# device, which do not know each other | plan | product | op | the files of src/ itself. Tools,
# benchmarks and examples see the public header and their own folder. Called as
#   cmake -DROOT=<source folder> -P check_layers.cmake
cmake_minimum_required(VERSION 3.16...3.31)

# What each layer may include besides its own folder and clora.h.
set(below_base "")
set(below_file base)
set(below_device base)
set(below_plan ${below_device} file device)
set(below_product ${below_plan} plan)
set(below_op ${below_product} product)
set(below_src ${below_op} op)
set(below_tools "")
set(below_bench "")
set(below_examples "")

set(failures 0)
function(report message)
  message("${message}")
  math(EXPR count "${failures} + 1")
  set(failures ${count} PARENT_SCOPE)
endfunction()

# "src/op/forward.c" belongs to op, "src/adapter.c" to src, "tools/run.c" to tools.
function(layer_of path result)
  string(REPLACE "/" ";" parts "${path}")
  list(LENGTH parts depth)
  list(GET parts 0 layer)
  if(layer STREQUAL "src" AND depth GREATER 2)
    list(GET parts 1 layer)
  endif()
  set(${result} ${layer} PARENT_SCOPE)
endfunction()

macro(check_include path layer included)
  get_filename_component(folder "${included}" DIRECTORY)
  get_filename_component(own_folder "${path}" DIRECTORY)
  if(folder STREQUAL "")
    # The generated kernels.h belongs to device; any other bare name has to lie beside the file.
    if(included STREQUAL "kernels.h" AND NOT layer MATCHES "^(base|file|tools|bench|examples)$")
    elseif(included STREQUAL "bench_kernels.h" AND layer STREQUAL "bench")
    elseif(NOT included STREQUAL "clora.h" AND
           (NOT EXISTS "${ROOT}/${own_folder}/${included}" OR
            NOT layer MATCHES "^(src|tools|bench|examples)$"))
      report("${path}: layer '${layer}' may not include '${included}' (write it with its folder)")
    endif()
  elseif(NOT folder STREQUAL layer AND NOT folder IN_LIST below_${layer})
    report("${path}: layer '${layer}' may not include '${included}'")
  endif()
endmacro()

file(GLOB_RECURSE sources RELATIVE ${ROOT} ${ROOT}/src/*.[ch] ${ROOT}/tools/*.[ch]
     ${ROOT}/bench/*.[ch] ${ROOT}/examples/*.[ch])
foreach(path ${sources})
  layer_of(${path} layer)
  if(NOT DEFINED below_${layer})
    report("${path}: '${layer}' is not a layer (see docs/architecture.md)")
    continue()
  endif()
  file(STRINGS ${ROOT}/${path} lines REGEX "^[ \t]*#[ \t]*include[ \t]*\"")
  foreach(line ${lines})
    string(REGEX REPLACE "^[^\"]*\"([^\"]*)\".*" "\\1" included "${line}")
    check_include("${path}" "${layer}" "${included}")
  endforeach()
endforeach()

list(LENGTH sources count)
if(failures GREATER 0)
  message(FATAL_ERROR "${failures} includes point upward")
endif()
if(count EQUAL 0)
  message(FATAL_ERROR "no source files under ${ROOT}")
endif()
message("${count} files include downward only")
