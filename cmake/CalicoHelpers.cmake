# Helpers every CMakeLists.txt of the project uses: calico_floor, calico_module, calico_test.

add_library(calico-options INTERFACE)
target_compile_options(calico-options INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  -Wno-missing-field-initializers $<$<BOOL:${CALICO_WERROR}>:-Werror>)
# g++ 12 reports false positives of these inside Boost and std at -O2.
target_compile_options(calico-options INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds -Wno-restrict
    -Wno-mismatched-new-delete>)
target_compile_definitions(calico-options INTERFACE
  BOOST_ASIO_SEPARATE_COMPILATION BOOST_ASIO_NO_DEPRECATED BOOST_BEAST_SEPARATE_COMPILATION
  BOOST_ASIO_DISABLE_BOOST_ARRAY CALICO_VERSION="${PROJECT_VERSION}")
target_include_directories(calico-options INTERFACE ${CMAKE_SOURCE_DIR})
target_link_libraries(calico-options INTERFACE Boost::headers tl::expected fmt::fmt Threads::Threads)
if(CALICO_SANITIZE)
  target_compile_options(calico-options INTERFACE -fsanitize=${CALICO_SANITIZE} -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  target_link_options(calico-options INTERFACE -fsanitize=${CALICO_SANITIZE})
  if(CALICO_SANITIZE MATCHES thread AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Asio has fences, which g++ says it cannot follow.
    target_compile_options(calico-options INTERFACE -Wno-tsan)
  endif()
else()
  target_compile_options(calico-options INTERFACE $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2> -fstack-protector-strong)
  target_link_options(calico-options INTERFACE -Wl,-z,relro,-z,now)
endif()

# calico_floor(NAME SOURCES...): one floor of core, an object library joined into libcalico-core.so.
function(calico_floor name)
  add_library(core-${name} OBJECT ${ARGN})
  target_link_libraries(core-${name} PUBLIC calico-options PRIVATE spdlog::spdlog Boost::json SQLite::SQLite3
    OpenSSL::SSL)
  set_property(GLOBAL APPEND PROPERTY CALICO_FLOORS core-${name})
endfunction()

# calico_module(NAME SOURCES...): calico-<NAME>.so behind the plugin ABI, plus an object library for tests that link it
# statically. Everything but the ABI symbol is hidden.
function(calico_module name)
  add_library(module-${name} OBJECT ${ARGN})
  target_link_libraries(module-${name} PUBLIC calico-options calico-core)
  target_compile_options(module-${name} PRIVATE -fvisibility=hidden -fvisibility-inlines-hidden)
  add_library(calico-${name} MODULE $<TARGET_OBJECTS:module-${name}>)
  target_link_libraries(calico-${name} PRIVATE calico-options calico-core)
  target_link_options(calico-${name} PRIVATE -Wl,-z,defs)
  set_target_properties(calico-${name} PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/.."
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/calico-node)
  set_property(GLOBAL APPEND PROPERTY CALICO_MODULES calico-${name})
endfunction()

# calico_test(NAME [ROOT] [LABEL label] [TIMEOUT s] SOURCES... [LIBS libs...]): one GoogleTest program. ROOT marks tests that
# need root and make network namespaces; they say so aloud when skipped.
function(calico_test name)
  cmake_parse_arguments(T "ROOT" "LABEL;TIMEOUT" "SOURCES;LIBS;DEFINES" ${ARGN})
  if(NOT T_LABEL)
    set(T_LABEL unit)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  add_executable(${name} ${T_SOURCES} ${T_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE calico-options calico-core calico-test-main GTest::gtest GTest::gmock ${T_LIBS})
  target_compile_definitions(${name} PRIVATE CALICO_SOURCE_DIR="${CMAKE_SOURCE_DIR}" CALICO_BINARY_DIR="${CMAKE_BINARY_DIR}"
    ${T_DEFINES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS ${T_LABEL} TIMEOUT ${T_TIMEOUT})
  if(T_LABEL STREQUAL unit)
    add_dependencies(calico-unit-tests ${name})
    # Where threads meet: these run under the thread sanitizer too.
    if(name MATCHES "^(loop|store|bgp)_")
      set_tests_properties(${name} PROPERTIES LABELS "unit;threads")
      add_dependencies(calico-thread-tests ${name})
    endif()
  endif()
endfunction()

# calico_add_subfolders(): adds every direct subfolder that has a CMakeLists.txt, sorted.
function(calico_add_subfolders)
  file(GLOB lists CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*/CMakeLists.txt)
  list(SORT lists)
  foreach(list ${lists})
    get_filename_component(folder ${list} DIRECTORY)
    add_subdirectory(${folder})
  endforeach()
endfunction()
