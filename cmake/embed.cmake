# Turns kernel files into one C source: for every kernels/NAME.cl a NUL-terminated array
# clora__source_NAME, and a header that declares them. Called as
#   cmake -DOUTPUT=<path without suffix> -DKERNELS=a.cl,b.cl -P embed.cmake
string(REPLACE "," ";" KERNELS "${KERNELS}")
set(header "/* Generated from the kernel files by cmake/embed.cmake. */\n#pragma once\n")
set(source "/* Generated from the kernel files by cmake/embed.cmake. */\n#include \"kernels.h\"\n")
foreach(kernel ${KERNELS})
  get_filename_component(name ${kernel} NAME_WE)
  file(READ ${kernel} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],){24})" "\\1\n" bytes "${bytes}")
  string(APPEND header "extern const char clora__source_${name}[];\n")
  string(APPEND source "const char clora__source_${name}[] = {\n${bytes}0x00};\n")
endforeach()
file(WRITE ${OUTPUT}.h "${header}")
file(WRITE ${OUTPUT}.c "${source}")
