# SPDX-License-Identifier: Apache-2.0
"""The siw module (soft iWARP) of the guest's kernel, which Debian does not build: made once and cached.

Happy path:
- downloads the headers and the source of the kernel that is cached (apt), takes siw out of the source, builds it alone;
- packs the module and the library's provider into siw.cpio, which goes over the base archive of a guest with siw.

Failure modes: VmError, one line; the log of the build is the image's.
"""
import fcntl
import glob
import os
import re
import shutil
import tempfile

from vm_image import APT, MULTIARCH, Archive, VmError

PROVIDER = [f"{MULTIARCH}/libibverbs/libsiw-rdmav*.so", "/etc/libibverbs.d/siw.driver"]
MODULE = "/usr/lib/modules/siw.ko"
NEEDED = ["make", "gcc", "tar", "xz", "strip"]


def kernel_version(path):
    """Of an uncompressed kernel: 6.1.0-30-amd64."""
    with open(path, "rb") as f:
        found = re.search(rb"Linux version (\d\S+) \(", f.read())
    if not found:
        raise VmError(f"{path} tells no version")
    return found.group(1).decode()


def missing_for_siw():
    return [name for name in NEEDED if not shutil.which(name)]


def siw_archive(image):
    """The path of siw.cpio for the image's kernel, built if need be."""
    version = kernel_version(image.kernel)
    path = os.path.join(image.cache, f"siw-{version}.cpio")
    with open(os.path.join(image.cache, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            return path
        if missing_for_siw():
            raise VmError(f"not installed: {', '.join(missing_for_siw())}")
        work = tempfile.mkdtemp(prefix="build-", dir=image.cache)
        try:
            _build(image, version, work)
            os.rename(os.path.join(work, "siw.cpio"), path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


def _build(image, version, work):
    image.say(f"building the siw module for Linux {version}")
    base, series = version.rsplit("-", 1)[0], ".".join(version.split(".")[:2])
    names = [f"linux-headers-{version}", f"linux-headers-{base}-common", f"linux-kbuild-{series}",
             f"linux-source-{series}"]
    tree, module = os.path.join(work, "tree"), os.path.join(work, "siw")
    os.mkdir(module)
    for name in names:
        image.log_run([*APT, "download", name], cwd=work)
        image.log_run(["dpkg", "-x", glob.glob(f"{work}/{name}_*.deb")[0], tree])
    image.log_run(["tar", "-C", module, "--strip-components=5", "-xJf", f"{tree}/usr/src/linux-source-{series}.tar.xz",
                   f"linux-source-{series}/drivers/infiniband/sw/siw"])
    headers = f"{tree}/usr/src/linux-headers-{version}"
    with open(f"{headers}/Makefile", "w", encoding="utf-8") as f:  # Debian's names its installed place
        f.write(f"include {tree}/usr/src/linux-headers-{base}-common/Makefile\n")
    image.log_run(["make", "-C", headers, f"M={module}", "CONFIG_RDMA_SIW=m", "modules"])
    image.log_run(["strip", "-g", f"{module}/siw.ko"])
    archive = Archive(os.path.join(work, "stage"))
    os.makedirs(os.path.dirname(archive.path(MODULE)))
    shutil.copy(f"{module}/siw.ko", archive.path(MODULE))
    for pattern in PROVIDER:
        for path in glob.glob(pattern):
            archive.put(path)
    with open(os.path.join(work, "siw.cpio"), "wb") as out:
        archive.pack(out)
