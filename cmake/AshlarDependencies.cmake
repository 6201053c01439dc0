# SPDX-License-Identifier: Apache-2.0
# Foreign libraries, each behind a short target dep::<name>. What is missing ends the configuration
# with one line that names the Debian package to install.
include(CheckIncludeFile)
find_package(PkgConfig QUIET)
if(NOT PKG_CONFIG_FOUND OR "pkg-config" IN_LIST ASHLAR_TEST_HIDE)
    message(FATAL_ERROR " pkg-config not found: install the Debian package pkg-config")
endif()

# ashlar_probe(<name> <ret_found> MODULES <pkg-config modules...> HEADERS <headers...>)
# Makes dep::<name> when every module and header is there.
function(ashlar_probe name ret_found)
    cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "MODULES;HEADERS")
    set(${ret_found} FALSE PARENT_SCOPE)
    if(name IN_LIST ASHLAR_TEST_HIDE)
        return()
    endif()
    pkg_check_modules(ASHLAR_PC_${name} QUIET IMPORTED_TARGET GLOBAL ${arg_MODULES})
    if(NOT ASHLAR_PC_${name}_FOUND)
        return()
    endif()
    set(CMAKE_REQUIRED_QUIET TRUE)
    set(CMAKE_REQUIRED_INCLUDES ${ASHLAR_PC_${name}_INCLUDE_DIRS})
    foreach(header IN LISTS arg_HEADERS)
        string(MAKE_C_IDENTIFIER "ASHLAR_HEADER_${header}" have)
        check_include_file(${header} ${have})
        if(NOT ${have})
            unset(${have} CACHE)
            return()
        endif()
    endforeach()
    add_library(dep::${name} ALIAS PkgConfig::ASHLAR_PC_${name})
    set(${ret_found} TRUE PARENT_SCOPE)
    set(ASHLAR_VERSION_${name} "${ASHLAR_PC_${name}_VERSION}" CACHE INTERNAL "")
endfunction()

# As ashlar_probe, but absence is fatal: WHAT names the thing, PACKAGE the Debian package.
function(ashlar_require name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "WHAT;PACKAGE" "MODULES;HEADERS")
    ashlar_probe(${name} found MODULES ${arg_MODULES} HEADERS ${arg_HEADERS})
    if(NOT found)
        # The leading blank keeps CMake from wrapping the line.
        message(FATAL_ERROR " ${arg_WHAT} not found: install the Debian package ${arg_PACKAGE}")
    endif()
endfunction()

ashlar_require(uv WHAT "libuv" PACKAGE libuv1-dev MODULES libuv HEADERS uv.h)
ashlar_require(raft WHAT "C-raft" PACKAGE libraft-dev MODULES raft HEADERS raft.h raft/uv.h)
ashlar_require(rocksdb WHAT "RocksDB C API" PACKAGE librocksdb-dev MODULES rocksdb
    HEADERS rocksdb/c.h)
ashlar_require(uring WHAT "liburing" PACKAGE liburing-dev MODULES liburing HEADERS liburing.h)
ashlar_require(isal WHAT "ISA-L" PACKAGE libisal-dev MODULES libisal HEADERS isa-l/crc.h)
ashlar_require(jansson WHAT "jansson" PACKAGE libjansson-dev MODULES jansson HEADERS jansson.h)
ashlar_require(inih WHAT "inih" PACKAGE libinih-dev MODULES inih HEADERS ini.h)
ashlar_require(nbdkit WHAT "nbdkit plugin headers" PACKAGE nbdkit-plugin-dev MODULES nbdkit
    HEADERS nbdkit-plugin.h)
if(ASHLAR_TESTS)
    # cmocka.h wants four standard headers before it, so it has no header probe of its own.
    ashlar_require(cmocka WHAT "cmocka" PACKAGE libcmocka-dev MODULES cmocka)
endif()

ashlar_probe(crypto ASHLAR_HAVE_CRYPTO MODULES libcrypto HEADERS openssl/evp.h)

set(ASHLAR_HAVE_RDMA FALSE)
if(NOT ASHLAR_RDMA STREQUAL "OFF")
    ashlar_probe(rdma ASHLAR_HAVE_RDMA MODULES librdmacm libibverbs
        HEADERS rdma/rdma_cma.h infiniband/verbs.h)
    if(ASHLAR_RDMA STREQUAL "ON" AND NOT ASHLAR_HAVE_RDMA)
        message(FATAL_ERROR
            " RDMA libraries not found: install the Debian packages librdmacm-dev libibverbs-dev")
    endif()
endif()
target_compile_definitions(ashlar_flags INTERFACE
    ASHLAR_HAVE_RDMA=$<BOOL:${ASHLAR_HAVE_RDMA}>
    ASHLAR_HAVE_CRYPTO=$<BOOL:${ASHLAR_HAVE_CRYPTO}>)

# Where nbdkit finds the plugin once installed under its own prefix.
set(ASHLAR_NBDKIT_PLUGIN_DIR "${CMAKE_INSTALL_LIBDIR}/nbdkit/plugins" CACHE STRING
    "Install folder of the nbdkit plugin")
