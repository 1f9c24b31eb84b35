# What `cmake --install` puts where. Everything is found relative to the files themselves, so the
# prefix can be moved afterwards.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/clora)
install(TARGETS clora EXPORT clora
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT clora NAMESPACE clora:: FILE cloraTargets.cmake DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/include/clora.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples
        FILES_MATCHING PATTERN "*.c")

# The tool finds the library beside it, wherever the prefix ends up.
file(RELATIVE_PATH bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set_target_properties(clora_tool PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
install(TARGETS clora_tool RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

# A static library leaves its private dependencies to whoever links it.
get_target_property(kind clora TYPE)
if(kind STREQUAL "STATIC_LIBRARY")
  set(CLORA_STATIC TRUE)
  set(CLORA_REQUIRES "OpenCL, clblast, jansson, libpcre2-8, sqlite3")
  set(CLORA_REQUIRES_PRIVATE "")
  set(CLORA_LIBS "-lclora ${CMAKE_THREAD_LIBS_INIT} -lm")
  set(CLORA_LIBS_PRIVATE "")
else()
  set(CLORA_STATIC FALSE)
  set(CLORA_REQUIRES "OpenCL")
  set(CLORA_REQUIRES_PRIVATE "clblast, jansson, libpcre2-8, sqlite3")
  set(CLORA_LIBS "-lclora")
  set(CLORA_LIBS_PRIVATE "${CMAKE_THREAD_LIBS_INIT} -lm")
endif()

configure_package_config_file(cmake/cloraConfig.cmake.in ${PROJECT_BINARY_DIR}/cloraConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cloraConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cloraConfig.cmake
              ${PROJECT_BINARY_DIR}/cloraConfigVersion.cmake
        DESTINATION ${package_dir})

# pkg-config: pcfiledir is the folder the .pc file lies in. A folder that was given as an absolute
# path stays where it was put.
set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
set(CLORA_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  file(RELATIVE_PATH up "/${pc_dir}" "/")
  string(REGEX REPLACE "/$" "" up "${up}")
  set(CLORA_PC_PREFIX "\${pcfiledir}/${up}")
endif()
foreach(dir LIBDIR INCLUDEDIR)
  set(CLORA_PC_${dir} "${CMAKE_INSTALL_${dir}}")
  if(NOT IS_ABSOLUTE "${CLORA_PC_${dir}}")
    set(CLORA_PC_${dir} "\${prefix}/${CLORA_PC_${dir}}")
  endif()
endforeach()
configure_file(cmake/clora.pc.in ${PROJECT_BINARY_DIR}/clora.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/clora.pc DESTINATION ${pc_dir})
