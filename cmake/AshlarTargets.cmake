# SPDX-License-Identifier: Apache-2.0
# The functions a folder's CMakeLists.txt is written with.
#
#   ashlar_library(<name> SOURCES <.c...> [DEPS <targets...>] [PUBLIC_DEPS <targets...>])
#       A static library target <name> (file libashlar_<name>.a), alias ashlar::<name>.
#
#   ashlar_shared_library(<name> OUTPUT <name> SOURCES <.c...> [DEPS ...] [HEADERS <.h...>])
#       An installed shared library lib<OUTPUT>.so with SOVERSION; all symbols hidden unless marked.
#
#   ashlar_executable(<name> SOURCES <.c...> [DEPS <targets...>] [INSTALL bindir|sbindir])
#       A program, found in <build>/bin/<name>.
#
#   ashlar_plugin(<name> SOURCES <.c...> [DEPS <targets...>])
#       An nbdkit plugin: <build>/lib/nbdkit-<name>-plugin.so, installed in nbdkit's folder.
#
#   ashlar_unit_test(<name> SOURCES <.c...> [DEPS <targets...>] [LABELS <labels...>])
#       A cmocka program, registered in ctest as <name> with the label unit, a hang guard of 120 s,
#       and exit code 77 as a skip. Add the label `threaded` if it has threads: it then runs under
#       ThreadSanitizer, too. <name> is global: prefix it with the room, e.g. common_wire_test.
#
#   ashlar_fuzzer(<name> SOURCES <.c...> [DEPS <targets...>] CORPUS <folder>)
#       SOURCES declare and define LLVMFuzzerTestOneInput. With ASHLAR_FUZZ a libFuzzer program; otherwise a
#       program that replays every corpus file and fixed mutations of it (cmake/fuzz_replay.c).
#       Either way ctest runs the corpus, label fuzz.
#
# DEPS may be dep::uv, dep::raft, dep::rocksdb, dep::uring, dep::isal, dep::jansson, dep::inih,
# dep::nbdkit, dep::cmocka, dep::crypto (if ASHLAR_HAVE_CRYPTO), dep::rdma (if ASHLAR_HAVE_RDMA),
# and ashlar::<name> of any folder, whatever the order of the folders. Includes start at the root of
# the repository: #include "common/wire.h"; the public header is <ashlar.h> (client/include).

define_property(GLOBAL PROPERTY ASHLAR_LINKS)

# Links are made after every folder was read; until then they are remembered.
function(ashlar_link_later target scope)
    foreach(dep IN LISTS ARGN)
        set_property(GLOBAL APPEND PROPERTY ASHLAR_LINKS "${target}|${scope}|${dep}")
    endforeach()
endfunction()

function(ashlar_finish_targets)
    get_property(links GLOBAL PROPERTY ASHLAR_LINKS)
    foreach(link IN LISTS links)
        string(REPLACE "|" ";" parts "${link}")
        list(GET parts 0 target)
        list(GET parts 1 scope)
        list(GET parts 2 dep)
        if(dep MATCHES "::" AND NOT dep MATCHES "^\\$<" AND NOT TARGET ${dep})
            if(ASHLAR_WERROR)
                message(FATAL_ERROR " ${target} needs ${dep}, which no folder makes")
            endif()
            message(WARNING " ${target} needs ${dep}, which no folder makes: not part of 'all'")
            set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL TRUE)
            continue()
        endif()
        target_link_libraries(${target} ${scope} ${dep})
    endforeach()
endfunction()

function(ashlar_library name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS;PUBLIC_DEPS")
    ashlar_check_arguments(ashlar_library ${name})
    add_library(${name} STATIC ${arg_SOURCES})
    add_library(ashlar::${name} ALIAS ${name})
    set_target_properties(${name} PROPERTIES OUTPUT_NAME "ashlar_${name}")
    target_link_libraries(${name} PRIVATE ashlar_flags)
    ashlar_link_later(${name} PRIVATE ${arg_DEPS})
    ashlar_link_later(${name} PUBLIC ${arg_PUBLIC_DEPS})
endfunction()

function(ashlar_shared_library name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "OUTPUT" "SOURCES;DEPS;HEADERS")
    ashlar_check_arguments(ashlar_shared_library ${name})
    add_library(${name} SHARED ${arg_SOURCES})
    add_library(ashlar::${name} ALIAS ${name})
    set_target_properties(${name} PROPERTIES
        OUTPUT_NAME "${arg_OUTPUT}"
        VERSION ${PROJECT_VERSION}
        SOVERSION ${PROJECT_VERSION_MAJOR}
        LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
    if(NOT ashlar_sanitize)
        target_link_options(${name} PRIVATE -Wl,--no-undefined)
    endif()
    target_link_libraries(${name} PRIVATE ashlar_flags)
    ashlar_link_later(${name} PRIVATE ${arg_DEPS})
    install(TARGETS ${name} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
    if(arg_HEADERS)
        install(FILES ${arg_HEADERS} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
    endif()
endfunction()

function(ashlar_executable name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "INSTALL" "SOURCES;DEPS")
    ashlar_check_arguments(ashlar_executable ${name})
    add_executable(${name} ${arg_SOURCES})
    set_target_properties(${name} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin"
        INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
    target_link_libraries(${name} PRIVATE ashlar_flags)
    ashlar_link_later(${name} PRIVATE ${arg_DEPS})
    if(arg_INSTALL STREQUAL "bindir")
        install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    elseif(arg_INSTALL STREQUAL "sbindir")
        install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
    elseif(arg_INSTALL)
        message(FATAL_ERROR " ${name}: INSTALL must be bindir or sbindir, not ${arg_INSTALL}")
    endif()
endfunction()

function(ashlar_plugin name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
    ashlar_check_arguments(ashlar_plugin ${name})
    set(target nbdkit_${name}_plugin)
    add_library(${target} MODULE ${arg_SOURCES})
    set_target_properties(${target} PROPERTIES
        PREFIX "" OUTPUT_NAME "nbdkit-${name}-plugin"
        INSTALL_RPATH "$ORIGIN/../.."
        LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
    target_link_libraries(${target} PRIVATE ashlar_flags)
    ashlar_link_later(${target} PRIVATE ${arg_DEPS} dep::nbdkit)
    install(TARGETS ${target} LIBRARY DESTINATION ${ASHLAR_NBDKIT_PLUGIN_DIR})
endfunction()

function(ashlar_unit_test name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS;LABELS")
    ashlar_check_arguments(ashlar_unit_test ${name})
    add_executable(${name} ${arg_SOURCES})
    target_link_libraries(${name} PRIVATE ashlar_flags)
    ashlar_link_later(${name} PRIVATE ${arg_DEPS} dep::cmocka)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES
        LABELS "unit;${arg_LABELS}" TIMEOUT 400 SKIP_RETURN_CODE 77)
endfunction()

function(ashlar_fuzzer name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "CORPUS" "SOURCES;DEPS")
    ashlar_check_arguments(ashlar_fuzzer ${name})
    cmake_path(ABSOLUTE_PATH arg_CORPUS BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
    add_executable(${name} ${arg_SOURCES})
    target_link_libraries(${name} PRIVATE ashlar_flags)
    if(ASHLAR_FUZZ)
        target_link_options(${name} PRIVATE -fsanitize=fuzzer)
        set(command ${name} -runs=0 "${arg_CORPUS}")
        # For tests/run --long, which fuzzes each of them for a while.
        file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/fuzzers/${name}"
            CONTENT "$<TARGET_FILE:${name}> ${arg_CORPUS}\n")
    else()
        target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/cmake/fuzz_replay.c")
        set(command ${name} "${arg_CORPUS}")
    endif()
    ashlar_link_later(${name} PRIVATE ${arg_DEPS})
    add_test(NAME ${name} COMMAND ${command})
    set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 400)
endfunction()

# Called inside the functions above: a misspelt keyword must not pass in silence.
macro(ashlar_check_arguments function name)
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR " ${function}(${name}): unknown argument ${arg_UNPARSED_ARGUMENTS}")
    endif()
    if(NOT arg_SOURCES)
        message(FATAL_ERROR " ${function}(${name}): no SOURCES")
    endif()
    # A folder whose files are still being written must not keep the others from building.
    foreach(source IN LISTS arg_SOURCES)
        cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
        get_source_file_property(generated "${source}" GENERATED)
        if(NOT EXISTS "${source}" AND NOT generated AND NOT ASHLAR_WERROR)
            message(WARNING " ${name} is left out: ${source} does not exist")
            return()
        endif()
    endforeach()
endmacro()
