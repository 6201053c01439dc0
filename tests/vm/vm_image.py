# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel and base file system, built once from Debian packages and cached.

Happy path:
- downloads linux-image (apt), unpacks it, and decompresses the kernel so that it boots through its PVH entry;
- packs the wanted modules and what they depend on, busybox and some programs of the host, into base.cpio;
- Archive builds further cpio archives with host programs and the libraries they need.

The cache is $ASHLAR_VM_CACHE, else /var/cache/ashlar-vm if that may be written, else ~/.cache/ashlar-vm.
Builds are serialised by a lock and appear by rename, so that runs may start at once.
Failure modes: what is missing is told in one line (VmError); the log of the build stays in the cache.
"""
import fcntl
import glob
import lzma
import os
import re
import shutil
import subprocess
import tempfile

MODULES = """virtio_pci virtio_console virtio_blk virtio_net virtio_rng 9p 9pnet_virtio overlay ext4 xfs
 loop brd null_blk nbd ib_uverbs rdma_ucm ib_umad iw_cm rdma_rxe dummy veth bridge sch_netem sch_tbf
 crc32_generic crc32_pclmul crc32c_generic crc32c_intel libcrc32c""".split()
PROGRAMS = """ibv_devices ibv_devinfo ibv_rc_pingpong rping ucmatose ip rdma tc ss dash bash mkfs.ext4 e2fsck
 mkfs.xfs xfs_repair strace""".split()
MULTIARCH = "/usr/lib/x86_64-linux-gnu"
PLUGINS = [f"{MULTIARCH}/libibverbs/librxe-rdmav*.so", f"{MULTIARCH}/libnss_files.so.2",
           f"{MULTIARCH}/libgcc_s.so.1", "/etc/libibverbs.d/rxe.driver", "/etc/mke2fs.conf",
           "/etc/nsswitch.conf", "/etc/protocols", "/lib64/ld-linux-x86-64.so.2"]
NEEDED = ["qemu-system-x86_64", "busybox", "cpio", "apt-get", "dpkg", "ldd", "setpriv"]
FORMAT = "3"  # of the cached files; raise it when they change
APT = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]


class VmError(Exception):
    """An error to be told in one line."""


def cache_dir():
    given = os.environ.get("ASHLAR_VM_CACHE")
    if given:
        return given
    system = "/var/cache/ashlar-vm"
    writable = os.access(system if os.path.isdir(system) else os.path.dirname(system), os.W_OK)
    return system if writable else os.path.expanduser("~/.cache/ashlar-vm")


def missing_programs():
    return [name for name in NEEDED if not shutil.which(name)]


def libraries_of(paths, search=()):
    """Files that the given ELF files load; unresolved ones are VmError."""
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(search)}
    found = set()
    for path in paths:
        out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False, env=env).stdout
        lost = re.search(r"^\s*(\S+) => not found", out, re.MULTILINE)
        if lost:
            raise VmError(f"{path} needs {lost.group(1)}, which is not here")
        found |= set(re.findall(r"(/\S+) \(0x", out))
    return sorted(found)


def is_elf(path):
    try:
        with open(path, "rb") as f:
            return f.read(4) == b"\x7fELF"
    except OSError:
        return False


class Archive:
    """A directory to become a cpio archive of the guest's root."""

    def __init__(self, stage):
        self.stage = stage

    def path(self, guest_path):
        return self.stage + guest_path

    def put(self, host_path):
        """Copies a host file or directory to the same place; links are followed, /lib and /bin lead into /usr."""
        place = os.path.join(os.path.realpath(os.path.dirname(host_path)), os.path.basename(host_path))
        if not os.path.exists(host_path) or os.path.lexists(self.path(place)):
            return
        os.makedirs(os.path.dirname(self.path(place)), exist_ok=True)
        if os.path.isdir(host_path):
            shutil.copytree(host_path, self.path(place))
        else:
            shutil.copy(host_path, self.path(place))

    def put_libraries(self, elf_paths, search=()):
        for library in libraries_of(elf_paths, search):
            if not library.startswith(self.stage):
                self.put(library)

    def write(self, guest_path, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(guest_path)), exist_ok=True)
        with open(self.path(guest_path), "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(self.path(guest_path), mode)

    def pack(self, out):
        """Appends the archive to an open file."""
        names = []
        for folder, folders, files in os.walk(self.stage):
            relative = os.path.relpath(folder, self.stage)
            names += [os.path.normpath(os.path.join(relative, name)) for name in folders + files]
        cpio = subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc", "-R", "0:0"], cwd=self.stage,
                              input="\0".join(sorted(names)).encode() + b"\0", stdout=subprocess.PIPE, check=True)
        out.write(cpio.stdout)


class Image:
    """The cached kernel and base archive; ready() builds them if need be."""

    def __init__(self, say=lambda text: None):
        self.cache, self.say = cache_dir(), say
        self.kernel = os.path.join(self.cache, "vmlinux")
        self.base = os.path.join(self.cache, "base.cpio")
        self.stamp = os.path.join(self.cache, "format")

    def ready(self):
        missing = missing_programs()
        if missing:
            raise VmError(f"not installed: {', '.join(missing)} (deploy/packages.txt lists the packages)")
        os.makedirs(self.cache, exist_ok=True)
        with open(os.path.join(self.cache, "lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_built():
                return
            work = tempfile.mkdtemp(prefix="build-", dir=self.cache)
            try:
                self._build(work)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _is_built(self):
        try:
            with open(self.stamp, encoding="utf-8") as f:
                return f.read() == FORMAT and os.path.getsize(self.base) > 0 and os.path.getsize(self.kernel) > 0
        except OSError:
            return False

    def _build(self, work):
        tree = os.path.join(work, "package")
        self.log_run(["dpkg", "-x", self._download_kernel(work), tree])
        version = os.path.basename(glob.glob(f"{tree}/boot/vmlinuz-*")[0])[len("vmlinuz-"):]
        self.say(f"building the guest image for Linux {version}")
        decompress_kernel(f"{tree}/boot/vmlinuz-{version}", os.path.join(work, "vmlinux"))
        archive = Archive(os.path.join(work, "stage"))
        lay_out(archive)
        put_modules(archive, tree, version)
        put_programs(archive)
        with open(os.path.join(work, "base.cpio"), "wb") as out:
            archive.pack(out)
        os.rename(os.path.join(work, "vmlinux"), self.kernel)
        os.rename(os.path.join(work, "base.cpio"), self.base)
        with open(self.stamp, "w", encoding="utf-8") as f:
            f.write(FORMAT)

    def log_run(self, argv, cwd=None, may_fail=False):
        log_path = os.path.join(self.cache, "build.log")
        with open(log_path, "ab") as log:
            done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode and not may_fail:
            raise VmError(f"'{' '.join(argv)}' failed, see {log_path}")
        return done.returncode == 0

    def _kernel_package(self):
        out = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True,
                             check=False).stdout
        found = re.search(r"Depends: (linux-image-[0-9]\S*)", out)
        return found.group(1) if found else None

    def _download_kernel(self, work):
        if not self._kernel_package():
            self.log_run([*APT, "update"])
        package = self._kernel_package()
        if not package:
            raise VmError("apt knows no linux-image-amd64")
        self.say(f"downloading {package}")
        if not self.log_run([*APT, "download", package], cwd=work, may_fail=True):
            self.log_run([*APT, "update"])
            self.log_run([*APT, "download", package], cwd=work)
        return glob.glob(os.path.join(work, "linux-image-*.deb"))[0]


def decompress_kernel(compressed_path, out_path):
    """Debian's bzImage holds the ELF kernel as an xz stream somewhere inside."""
    with open(compressed_path, "rb") as f:
        data = f.read()
    at = data.find(b"\xfd7zXZ\x00")
    while at >= 0:
        try:
            kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data[at:])
        except lzma.LZMAError:
            kernel = b""
        if kernel.startswith(b"\x7fELF"):
            with open(out_path, "wb") as f:
                f.write(kernel)
            return
        at = data.find(b"\xfd7zXZ\x00", at + 1)
    raise VmError(f"no xz-compressed kernel in {compressed_path}")


def lay_out(archive):
    for folder in ("dev proc sys tmp run run.d root etc mnt out files h var usr/bin usr/sbin usr/lib64 "
                   "usr/lib/x86_64-linux-gnu").split():
        os.makedirs(os.path.join(archive.stage, folder))
    for link in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{link}", os.path.join(archive.stage, link))
    os.symlink("../run", archive.path("/var/run"))
    os.chmod(archive.path("/tmp"), 0o1777)
    archive.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    archive.write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    archive.write("/etc/hosts", "127.0.0.1 localhost\n")


def put_modules(archive, tree, version):
    """The wanted modules with their dependencies, uncompressed."""
    base = glob.glob(f"{tree}/usr/lib/modules/{version}") or glob.glob(f"{tree}/lib/modules/{version}")
    wanted = {name.replace("-", "_") for name in MODULES}
    depends = {}
    for path in glob.glob(f"{base[0]}/kernel/**/*.ko*", recursive=True):
        name = os.path.basename(path).split(".ko")[0].replace("-", "_")
        depends[name] = path
    taken = set()
    target = archive.path(f"/usr/lib/modules/{version}")
    os.makedirs(target)
    while wanted - taken:
        name = (wanted - taken).pop()
        taken.add(name)
        if name not in depends:
            continue  # built in, or not of this kernel
        data = read_module(depends[name])
        relative = os.path.relpath(depends[name], base[0]).removesuffix(".xz")
        os.makedirs(os.path.dirname(os.path.join(target, relative)), exist_ok=True)
        with open(os.path.join(target, relative), "wb") as f:
            f.write(data)
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        wanted |= {n.decode().replace("-", "_") for n in needs.group(1).split(b",") if n} if needs else set()
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(os.path.join(base[0], name), target)
    subprocess.run(["busybox", "depmod", "-b", archive.stage, version], check=True)


def read_module(path):
    with open(path, "rb") as f:
        data = f.read()
    return lzma.decompress(data) if path.endswith(".xz") else data


def put_programs(archive):
    for pattern in PLUGINS:
        for path in glob.glob(pattern):
            archive.put(path)
    programs = [path for path in map(shutil.which, PROGRAMS) if path]
    for path in programs:
        archive.put(path)
    archive.put_libraries([path for path in programs if is_elf(path)])
    os.symlink("dash", archive.path("/usr/bin/sh"))  # busybox's shell would prefer its own ip to the real one
    shutil.copy(shutil.which("busybox"), archive.path("/usr/bin/busybox"))
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if not any(os.path.lexists(archive.path(f"/usr/{place}/{name}")) for place in ("bin", "sbin")):
            os.symlink("busybox", archive.path(f"/usr/bin/{name}"))
