"""Stand-ins for CANN's libraries, so that MindSpore's Ascend plugin loads on a machine without CANN.

The wheel carries the plugin; what keeps it from loading are the libraries that it is linked with, or opens while it
runs. All their names are read from the wheel, and each becomes a C++ function that returns 0. The few of which
MindSpore wants more are in `SPECIAL`. No file of CANN is used or made. Found out with MindSpore 2.10.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("gcc", "g++", "nm", "readelf")
PLUGIN = (
    "lib/plugin/libmindspore_ascend.so*",
    "lib/plugin/libmindspore_ops_ascend.so",
    "lib/plugin/ascend/libmindspore_ascend_res_manager.so",
    "lib/plugin/ascend/libmindspore_graph_ir.so",
    "lib/plugin/ascend/libhccl_plugin.so",
    "lib/plugin/ascend/libd_collective.so",
    "lib/plugin/ascend/ms_kernels_symmetric_memory/shmem/*/lib/*.so",
    "lib/libmindspore_ge_backend.so",
)
# Opened by name while MindSpore runs, so that no library lists them as needed.
OPENED = {
    "libacl_op_compiler.so", "libacl_tdt_channel.so", "libmsprofiler.so", "libopapi.so", "driver/libascend_hal.so",
}  # fmt: skip
CANN_NAME = re.compile(r"_ZNK?(?:2ge|9mindspore)|(?:acl|hal|rt|Hccl|Hcom)[A-Za-z]")
NAME_IN_TEXT = re.compile(rb"(?<=\0)(?:acl[a-z]*[A-Z]|hal[A-Z]|rt[A-Z]|Hccl|Hcom)\w{2,70}(?=\0)")
ALSO_LOOKED_UP = {
    "InitHugeMemThreadLocal", "UnInitHugeMemThreadLocal", "ReleaseHugeMem",
    "InitPTACacheThreadLocal", "SetPTAHashKey", "PTAGetExecCache",
    "HcomSetGradFusionByIndex", "HcomSetGradFusionBySize",  # by name, from Python
}  # fmt: skip
GE_BEGINS = "DRY RUN: GE conversion begins"
ENDS_AT_GE = "DRY_RUN_ENDS_AT_GE"  # environment variable: end the process there, with exit code 0
TURN = "DRY_RUN_TURN"  # environment variable: a file that the processes of a run lock while they compile

_HANDLE = "int {name}(void** p) {{ *p = malloc(64); return 0; }}"  # a null one is taken for a failure
_ADDRESS = "int {name}(void** p) {{ *p = (void*)0x100000000ull; return 0; }}"  # nothing runs, nothing is read
_COMMUNICATOR = "int {name}(const char*, unsigned, void** c) {{ *c = malloc(64); return 0; }}"
SPECIAL = {
    **dict.fromkeys(
        ("aclrtCreateContext", "aclrtCreateStream", "aclrtCreateStreamWithConfig", "aclrtCreateEventWithFlag",
         "aclrtCreateEventExWithFlag", "aclrtMallocPhysical"), _HANDLE),
    **dict.fromkeys(("aclrtMalloc", "aclrtMallocAlign32", "aclrtReserveMemAddress"), _ADDRESS),
    # Two threads of each process wait in it for callbacks, and would else take all the time that there is.
    "aclrtProcessReport": "int {name}(int) {{ usleep(10000); return 0; }}",
    "aclrtMallocHost": "int {name}(void** p, size_t n) {{ *p = malloc(n); return 0; }}",
    "aclrtGetSocName": 'const char* {name}(void) {{ return "Ascend910B3"; }}',
    "aclrtGetDeviceCount": "int {name}(unsigned* n) {{ *n = 8; return 0; }}",
    "aclrtGetMemInfo": "int {name}(int, size_t* f, size_t* t) {{ *f = 60ull << 30; *t = 64ull << 30; return 0; }}",
    "HcclCommInitClusterInfo": _COMMUNICATOR,
    "HcclCommInitClusterInfoConfig":
        "int {name}(const char*, unsigned, void*, void** c) {{ *c = malloc(64); return 0; }}",
    "HcclGetRankSize": 'int {name}(void*, unsigned* n) {{ *n = of_environment("RANK_SIZE", 1); return 0; }}',
    "HcclGetRankId": 'int {name}(void*, unsigned* n) {{ *n = of_environment("RANK_ID", 0); return 0; }}',
    # The first thing that the conversion to a GE graph makes, when GE's graph check has passed. Further on it would
    # work with objects that are none: it ends here, as an error that Python sees, or with the process, as the way
    # back through MindSpore frees such objects where there are several ranks.
    **dict.fromkeys(
        ("_ZN2ge5GraphC1EPKc", "_ZN2ge5GraphC1ERKSs"),
        f'void {{name}}(void*) {{{{ fputs("{GE_BEGINS}\\n", stderr); if (getenv("{ENDS_AT_GE}")) _exit(0); '
        f'throw std::runtime_error("{GE_BEGINS}"); }}}}'),
    # A reference to a map, which takes GE's error texts while the plugin is loaded.
    "_ZN2ge13StatusFactory8InstanceEv": "void* {name}(void) {{ return new std::map<uint32_t, std::string>; }}",
}  # fmt: skip

_HEAD = """\
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <unistd.h>
extern "C" {
static inline unsigned of_environment(const char* name, unsigned other) {
  const char* value = getenv(name);
  return value ? atoi(value) : other;
}
"""

# Classes of GE that MindSpore makes by value while it chooses kernels: they need constructors and destructors. No more
# of them is here than what the plugin's own symbols show.
_GE_CLASSES = """\
#include <memory>
#include <string>
namespace ge {
struct AscendString { AscendString(char const*); std::shared_ptr<std::string> text; };
AscendString::AscendString(char const* s) : text(std::make_shared<std::string>(s ? s : "")) {}
struct Operator {
  Operator(char const*); Operator(char const*, char const*); Operator(std::string const&);
  Operator(std::string const&, std::string const&); Operator(AscendString const&, AscendString const&);
  virtual ~Operator() = default;
  std::shared_ptr<void> body;
};
Operator::Operator(char const*) {}
Operator::Operator(char const*, char const*) {}
Operator::Operator(std::string const&) {}
Operator::Operator(std::string const&, std::string const&) {}
Operator::Operator(AscendString const&, AscendString const&) {}
struct OperatorFactory {
  static Operator CreateOperator(char const*, char const*);
  static Operator CreateOperator(std::string const&, std::string const&);
};
Operator OperatorFactory::CreateOperator(char const* name, char const* type) { return Operator(name, type); }
Operator OperatorFactory::CreateOperator(std::string const& n, std::string const& type) { return Operator(n, type); }
}
"""


def why_not() -> str:
    """Why no stand-ins can be made here; empty where they can."""
    if not sys.platform.startswith("linux"):
        return f"the Ascend plugin is of Linux alone, this is {sys.platform}"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (Debian: apt-get install g++ binutils)"
    import mindspore as ms

    if not ms.__version__.startswith("2.10."):
        return f"the names that CANN lacks were found out with MindSpore 2.10, installed is {ms.__version__}"
    if not list(_wheel().glob(PLUGIN[0])):
        return "this wheel of MindSpore has no Ascend plugin"
    return ""


def make_stubs(folder: Path) -> dict[str, str]:
    """Compile the stand-ins into a folder; returns the environment variables of a dry run."""
    wheel = _wheel()
    plugin = [path for pattern in PLUGIN for path in sorted(wheel.glob(pattern))]
    own = {
        *plugin,
        *(path for pattern in ("*.so", "lib/*.so*", "lib/plugin/*.so*") for path in wheel.glob(pattern)),
    }
    defined = set().union(*(_symbols(path, "defined") for path in own if "gpu" not in path.name))
    undefined = {name for path in plugin for name in _symbols(path, "undefined") if CANN_NAME.match(name)}
    looked_up = {
        m.decode() for path in plugin for m in NAME_IN_TEXT.findall(path.read_bytes())
    } | ALSO_LOOKED_UP
    looked_up |= {f"{name}GetWorkspaceSize" for name in looked_up if name.startswith("aclnn")}

    libraries = folder / "cann" / "latest" / "lib64"  # MindSpore looks for CANN's other folders around it
    acl, classes = libraries / "libascendcl.so", libraries / "classes.o"
    _build(_GE_CLASSES, classes, "-c")
    names = (undefined | looked_up | SPECIAL.keys()) - defined - _symbols(classes, "defined")
    _build(_source(sorted(names)), acl, "-shared", classes)
    classes.unlink()
    needed = {name for path in plugin for name in _needed(path)} - {path.name for path in own}
    for name in sorted({*OPENED, *(name for name in needed if not _is_of_system(name))} - {acl.name}):
        # Empty, but needing libascendcl.so: what is looked up in them is found there.
        _build("", libraries / name, "-shared", "-Wl,--no-as-needed", acl)
    module = folder / "python" / "hccl"  # imported by MindSpore before it joins several processes
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    (module / "sys_version.py").write_text('__sys_version__ = "0"\n')
    return {
        "LD_LIBRARY_PATH": ":".join(map(str, [libraries, *sorted({path.parent for path in plugin})])),
        "PYTHONPATH": str(module.parent),
        "MS_SIMULATION_LEVEL": "1",  # MindSpore's own dry run: compiles, allocates nothing, runs nothing
    }


def _wheel() -> Path:
    import mindspore as ms

    return Path(ms.__file__).parent


def _output(*command) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


def _symbols(library: Path, kind: str) -> set[str]:
    """Symbols without a version (with one they are the system's), weak ones left out where undefined."""
    dynamic = [] if library.suffix == ".o" else ["-D"]
    rows = (line.split() for line in _output("nm", *dynamic, f"--{kind}-only", library).splitlines())
    return {row[-1] for row in rows if "@" not in row[-1] and not (kind == "undefined" and row[-2] in "wv")}


def _needed(library: Path) -> list[str]:
    return re.findall(r"NEEDED.*\[(.+)\]", _output("readelf", "-d", library))


def _is_of_system(name: str) -> bool:
    return Path(_output("gcc", f"-print-file-name={name}").strip()).is_absolute()


def _source(names: list[str]) -> str:
    """A function a name. The label behind `asm` is the symbol, as mangled names are no identifiers."""
    lines = [_HEAD]
    for number, name in enumerate(names):
        # Setters of ge::Operator return the object; a constructor of GE leaves an empty one.
        result = "self" if name.startswith("_ZN2ge8Operator") else "0"
        clear = "memset(self, 0, 16); " if re.match(r"_ZN2ge\d+\w+?C[12]E", name) else ""
        usual = f"void* {{name}}(void* self) {{{{ {clear}return {result}; }}}}"
        text = SPECIAL.get(name, usual).format(name=f"f{number}")
        lines.append(f'{text[: text.index("{")]}asm("{name}");\n{text}')
    return "\n".join([*lines, "}\n"])


def _build(text: str, target: Path, *options) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = target.with_suffix(".cc")
    source.write_text(text)
    # MindSpore is built with the old ABI of std::string.
    _output("g++", "-w", "-O1", "-fPIC", "-D_GLIBCXX_USE_CXX11_ABI=0", "-o", target, source, *options)
    source.unlink()
