"""The default model with its first layers only: the same matrices, formats and heads, and few enough of them for the plain twin of the
kernels to run everything that the quick kernels run."""
import os
import re

import gguf


def write(source, path, layers):
    """A copy of the GGUF file `source` without the blocks from `layers` on."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    part = f"{path}.new"
    writer = gguf.GGUFWriter(part, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == f"{architecture}.block_count" else field.contents()
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], element)
    for tensor in reader.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        if block is None or int(block[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(part, path)
