"""ONNX Runtime's CPU provider on a graph of its own fused operators, weights merged for one task.

The graph is written directly instead of exported: one product for q, k and v, RotaryEmbedding, MultiHeadAttention (flash
attention on CPU where nothing is padded), SkipLayerNormalization and BiasGelu are what ONNX Runtime's optimizer turns
an export into at best; it knows no pattern for BERT with rotary embeddings.
"""
import protocol
from protocol import MERGED_TASK
from peer_transformers import merged_folder

_INT8 = f"`quantize_dynamic` of every weight product: %s-bit weights per channel, 8-bit activations per tensor; `{MERGED_TASK}` merged"
SETTINGS = {
    "onnxruntime": f"f32, `{MERGED_TASK}` merged, graph of fused operators",
    "onnxruntime-int8": _INT8 % "7" + " (`reduce_range`, which AVX2 needs to be right)",
    "onnxruntime-int8-8bit": _INT8 % "8" + " (right only with VNNI)",
}
DOMAIN = "com.microsoft"


def build_graph(tensors, shape):
    """ModelProto of base-named, merged `tensors`: input_ids [batch, tokens], mask, padded -> hidden."""
    import numpy as np
    import onnx
    from onnx import TensorProto as T, helper, numpy_helper

    nodes, constants = [], []

    def const(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(kind, inputs, name, outputs=1, domain="", **attributes):
        outs = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        nodes.append(helper.make_node(kind, inputs, outs, name=name, domain=domain, **attributes))
        return name if outputs == 1 else outs

    def weight(path):
        return const(path + ".weight", tensors[path + ".weight"].numpy().T), const(path + ".bias", tensors[path + ".bias"].numpy())

    def norm(path):
        return [const(f"{path}.{part}", tensors[f"{path}.{part}"].numpy()) for part in ("weight", "bias")]

    dim = shape.hidden // shape.heads
    inv_freq = 1.0 / shape.theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
    angles = np.arange(8192, dtype=np.float32)[:, None] * inv_freq.astype(np.float32)
    cos, sin = const("cos", np.cos(angles)), const("sin", np.sin(angles))
    zero = const("first_position", np.zeros(1, np.int64))
    words = (tensors["roberta.embeddings.word_embeddings.weight"] + tensors["roberta.embeddings.token_type_embeddings.weight"][0])
    x = op("Gather", [const("embeddings", words.numpy()), "input_ids"], "embedded")
    x = op("LayerNormalization", [x, *norm("roberta.emb_ln")], "embedded_norm", axis=-1, epsilon=shape.eps)
    for layer in range(shape.layers):
        path, name = f"roberta.encoder.layers.{layer}", f"layer{layer}"
        w, b = weight(path + ".mixer.Wqkv")
        qkv = op("Add", [op("MatMul", [x, w], name + ".qkv_product"), b], name + ".qkv")
        q, k, v = op("Split", [qkv], name + ".split", outputs=3, axis=-1, num_outputs=3)
        q, k = (op("RotaryEmbedding", [t, zero, cos, sin], f"{name}.rotary_{letter}", domain=DOMAIN,
                   num_heads=shape.heads, rotary_embedding_dim=dim, interleaved=0) for letter, t in (("q", q), ("k", k)))

        def attention(suffix, inputs):
            out = f"{name}.attention_{suffix}"
            node = helper.make_node("MultiHeadAttention", inputs, [out], name=out, domain=DOMAIN, num_heads=shape.heads)
            return helper.make_graph([node], out, [], [helper.make_tensor_value_info(out, T.FLOAT, None)])

        context = op("If", ["padded"], name + ".attention", then_branch=attention("padded", [q, k, v, "", "mask"]),
                     else_branch=attention("full", [q, k, v]))
        w, b = weight(path + ".mixer.out_proj")
        out = op("MatMul", [context, w], name + ".out_product")
        x = op("SkipLayerNormalization", [x, out, *norm(path + ".norm1"), b], name + ".norm1", domain=DOMAIN, epsilon=shape.eps)
        w, b = weight(path + ".mlp.fc1")
        inner = op("BiasGelu", [op("MatMul", [x, w], name + ".fc1_product"), b], name + ".gelu", domain=DOMAIN)
        w, b = weight(path + ".mlp.fc2")
        out = op("MatMul", [inner, w], name + ".fc2_product")
        last = layer == shape.layers - 1
        x = op("SkipLayerNormalization", [x, out, *norm(path + ".norm2"), b], "hidden" if last else name + ".norm2",
               domain=DOMAIN, epsilon=shape.eps)
    graph = helper.make_graph(
        nodes, "jina-embeddings-v3",
        [helper.make_tensor_value_info("input_ids", T.INT64, ["batch", "tokens"]),
         helper.make_tensor_value_info("mask", T.INT32, ["batch", "tokens"]),
         helper.make_tensor_value_info("padded", T.BOOL, [])],
        [helper.make_tensor_value_info("hidden", T.FLOAT, ["batch", "tokens", shape.hidden])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)], ir_version=10)


def prepare(setting, folders):
    merged_folder(folders)

    def make(folder):
        import onnx
        from reference import FULL
        from safetensors.torch import load_file

        model = build_graph(load_file(folders.peers / "merged/model.safetensors"), FULL)
        onnx.save_model(model, str(folder / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=1024)

    plain = folders.made("onnx", make)

    def quantize(folder):
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with protocol.quiet():
            quantize_dynamic(plain / "model.onnx", folder / "model.onnx", op_types_to_quantize=["MatMul"], per_channel=True,
                             reduce_range=setting == "onnxruntime-int8", weight_type=QuantType.QInt8,
                             use_external_data_format=True,
                             extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT})

    if setting != "onnxruntime":
        folders.made(folder_of(setting), quantize)


def folder_of(setting):
    return setting.replace("onnxruntime", "onnx")


class OnnxRuntime(protocol.Peer):
    def __init__(self, setting, folders, threads):
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folders.peers / folder_of(setting) / "model.onnx", options,
                                                    providers=["CPUExecutionProvider"])
        self.versions = f"onnxruntime {onnxruntime.__version__}"
        self.np = np

    def hidden(self, ids, mask):
        np = self.np
        padded = mask is not None
        mask = (mask if padded else np.ones_like(ids)).astype(np.int32)
        return self.session.run(None, {"input_ids": ids, "mask": mask, "padded": np.array(padded)})[0]


if __name__ == "__main__":
    protocol.main(SETTINGS, prepare, OnnxRuntime)
