# One folder, one library target. `pagoda_library(name SOURCES ... DEPS ...)` builds libpagoda_<name>.a; the DEPS that are
# folders of this repository are the architecture, and tests/architecture_test.py holds the includes against the design.
add_library(pagoda_flags INTERFACE)
target_compile_features(pagoda_flags INTERFACE cxx_std_20)
target_compile_options(pagoda_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(pagoda_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)  # GCC bug 105651: "literal" + std::string
endif()
target_include_directories(pagoda_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_link_libraries(pagoda_flags INTERFACE Threads::Threads)
if(PAGODA_SANITIZER)
  # Enough for stacks that read well; half the time to compile that RelWithDebInfo's own flags take.
  target_compile_options(pagoda_flags INTERFACE -O1 -g1 -fno-omit-frame-pointer)
endif()
if(PAGODA_SANITIZER STREQUAL "address")
  target_compile_options(pagoda_flags INTERFACE -fsanitize=address,undefined
                         -fno-sanitize-recover=all)
  target_link_options(pagoda_flags INTERFACE -fsanitize=address,undefined)
elseif(PAGODA_SANITIZER STREQUAL "thread")
  # Asio uses fences, which TSan does not model and GCC warns of.
  target_compile_options(pagoda_flags INTERFACE -fsanitize=thread -Wno-tsan
                         -Wno-maybe-uninitialized)
  target_link_options(pagoda_flags INTERFACE -fsanitize=thread)
  # Part of every executable: shows TSan the locks of gRPC.
  add_library(pagoda_tsan_abseil OBJECT ${CMAKE_SOURCE_DIR}/tests/sanitizers/tsan_abseil.cc)
  target_compile_features(pagoda_tsan_abseil PRIVATE cxx_std_20)
  set(PAGODA_SANITIZER_OBJECTS $<TARGET_OBJECTS:pagoda_tsan_abseil>)
endif()

function(pagoda_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(pagoda_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(pagoda_${name} PUBLIC pagoda_flags ${ARG_DEPS})
endfunction()

function(pagoda_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${PAGODA_SANITIZER_OBJECTS})
  target_link_libraries(${name} PRIVATE pagoda_flags ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# A unit test binary. LABELS unit (default) | integration.
function(pagoda_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${PAGODA_SANITIZER_OBJECTS})
  target_link_libraries(${name} PRIVATE pagoda_flags ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
