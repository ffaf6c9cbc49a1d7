"""OpenVINO's CPU plugin on transformers' model, weights merged for one task."""
import protocol
from protocol import MERGED_TASK
from peer_transformers import merged_folder, merged_model

SETTINGS = {
    "openvino": f"f32 (`INFERENCE_PRECISION_HINT`; without it this plugin takes bf16 where the CPU has it), `{MERGED_TASK}` merged",
    "openvino-bf16": f"bf16, the plugin's own choice where the CPU has it, `{MERGED_TASK}` merged",
    "openvino-int8": "`nncf.quantize` for transformers: 8-bit weights per channel and 8-bit activations with scales calibrated "
                     f"on 64 random texts, SmoothQuant; the rest f32; `{MERGED_TASK}` merged",
    "openvino-int8-dynamic": "`nncf.compress_weights` to 8 bits, activations quantised at run time in groups of 32 "
                             f"(`DYNAMIC_QUANTIZATION_GROUP_SIZE`), the rest f32; `{MERGED_TASK}` merged",
}
CALIBRATION_TEXTS = 64


def prepare(setting, folders):
    merged_folder(folders)

    def convert(folder):
        import openvino
        import torch

        class Encoder(torch.nn.Module):
            """Masks given as [batch, 1, 1, tokens], so that no [tokens, tokens] mask is made."""

            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, input_ids, mask):
                return self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state

        ids = torch.randint(4, 1000, (2, 24))
        with torch.no_grad(), protocol.quiet():
            model = openvino.convert_model(Encoder(merged_model(folders)), example_input=(ids, torch.zeros(2, 1, 1, 24)),
                                           input=[openvino.PartialShape([-1, -1]), openvino.PartialShape([-1, 1, 1, -1])])
        for tensor, name in zip(model.inputs, ("input_ids", "mask")):
            tensor.get_tensor().set_names({name})
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    plain = folders.made("openvino", convert)

    def quantize(folder):
        import nncf
        import numpy as np
        import openvino

        generator = np.random.default_rng(1)
        texts = [generator.integers(4, 250000, (1, n)) for n in generator.integers(16, 129, CALIBRATION_TEXTS)]
        inputs = [{"input_ids": ids, "mask": np.zeros((1, 1, 1, ids.shape[1]), np.float32)} for ids in texts]
        model = openvino.Core().read_model(plain / "model.xml")
        model = nncf.quantize(model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER,
                              subset_size=CALIBRATION_TEXTS, fast_bias_correction=True)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    def compress(folder):
        import nncf
        import openvino

        model = nncf.compress_weights(openvino.Core().read_model(plain / "model.xml"), mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    if setting == "openvino-int8":
        folders.made(setting, quantize)
    elif setting == "openvino-int8-dynamic":
        folders.made(setting, compress)


class OpenVino(protocol.Peer):
    def __init__(self, setting, folders, threads):
        import numpy as np
        import openvino

        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
                   "INFERENCE_PRECISION_HINT": "bf16" if setting == "openvino-bf16" else "f32"}
        if setting == "openvino-int8-dynamic":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
        folder = setting if "int8" in setting else "openvino"
        self.request = openvino.Core().compile_model(folders.peers / folder / "model.xml", "CPU", options).create_infer_request()
        self.versions = f"openvino {openvino.__version__.split('-')[0]}"
        self.np = np

    def hidden(self, ids, mask):
        np = self.np
        bias = np.zeros((ids.shape[0], 1, 1, ids.shape[1]), np.float32)
        if mask is not None:
            bias[:, 0, 0] = (mask - 1) * np.float32(1e9)
        return self.request.infer({"input_ids": ids, "mask": bias}, share_inputs=True, share_outputs=True)[0]


if __name__ == "__main__":
    protocol.main(SETTINGS, prepare, OpenVino)
