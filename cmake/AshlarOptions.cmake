# SPDX-License-Identifier: Apache-2.0
# Every switch of the build, with its default.
option(ASHLAR_ASAN "Build with AddressSanitizer (and LeakSanitizer)" OFF)
option(ASHLAR_UBSAN "Build with UndefinedBehaviorSanitizer" OFF)
option(ASHLAR_TSAN "Build with ThreadSanitizer" OFF)
option(ASHLAR_WERROR "Warnings are errors, and so is a missing target (ON in CI)" OFF)
option(ASHLAR_FUZZ "Build libFuzzer executables (needs clang); otherwise corpora are replayed" OFF)
option(ASHLAR_MUTANTS "Compile in the known-bad switches that the simulator must catch" OFF)
option(ASHLAR_COVERAGE "Instrument for gcov" OFF)
option(ASHLAR_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(ASHLAR_BENCH "Build the benchmarks" ${PROJECT_IS_TOP_LEVEL})
set(ASHLAR_RDMA AUTO CACHE STRING "RDMA transport: AUTO (if the libraries are there), ON or OFF")
set_property(CACHE ASHLAR_RDMA PROPERTY STRINGS AUTO ON OFF)

# A dependency named here is treated as not installed (tests/configure_missing uses it).
set(ASHLAR_TEST_HIDE "" CACHE INTERNAL "Dependencies to pretend are missing")

if(NOT ASHLAR_RDMA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR " ASHLAR_RDMA is '${ASHLAR_RDMA}': must be AUTO, ON or OFF")
endif()
if(ASHLAR_TSAN AND (ASHLAR_ASAN OR ASHLAR_UBSAN OR ASHLAR_FUZZ))
    message(FATAL_ERROR " ASHLAR_TSAN can not be combined with ASHLAR_ASAN, ASHLAR_UBSAN or ASHLAR_FUZZ")
endif()
if(ASHLAR_FUZZ AND NOT CMAKE_C_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR " ASHLAR_FUZZ needs clang: configure with -DCMAKE_C_COMPILER=clang-14")
endif()
