# SPDX-License-Identifier: Apache-2.0
# What was configured, in one screen.
set(rdma_line "no")
if(ASHLAR_HAVE_RDMA)
    set(rdma_line "yes")
endif()
message(STATUS "")
message(STATUS "Ashlar ${PROJECT_VERSION}")
message(STATUS "  compiler      ${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
message(STATUS "  build type    ${CMAKE_BUILD_TYPE} (asserts stay on)")
message(STATUS "  werror        ${ASHLAR_WERROR}")
message(STATUS "  sanitizers    asan ${ASHLAR_ASAN}, ubsan ${ASHLAR_UBSAN}, tsan ${ASHLAR_TSAN}")
message(STATUS "  fuzz, mutants, coverage   ${ASHLAR_FUZZ}, ${ASHLAR_MUTANTS}, ${ASHLAR_COVERAGE}")
message(STATUS "  rdma          ${rdma_line} (ASHLAR_RDMA=${ASHLAR_RDMA})")
message(STATUS "  tests, bench  ${ASHLAR_TESTS}, ${ASHLAR_BENCH}")
message(STATUS "  libraries     libuv ${ASHLAR_VERSION_uv}, raft ${ASHLAR_VERSION_raft}, "
    "rocksdb ${ASHLAR_VERSION_rocksdb}, liburing ${ASHLAR_VERSION_uring}, "
    "isa-l ${ASHLAR_VERSION_isal}, nbdkit ${ASHLAR_VERSION_nbdkit}")
message(STATUS "  prefix        ${CMAKE_INSTALL_PREFIX}")
message(STATUS "")
