//! Published numbers of the real weights.
//!
//! Source: huggingface/transformers, `tests/models/jina_embeddings_v3/`, float32, no instruction
//! added; `last_hidden_state` of the rows and columns given. They catch any error in real weights.

/// Shape of the model that the numbers belong to.
pub(super) const VOCAB_SIZE: usize = 250_002;
pub(super) const NUM_HIDDEN_LAYERS: usize = 24;
pub(super) const HIDDEN_SIZE: usize = 1024;

/// Largest difference of a component, as in the published test.
pub(super) const TOLERANCE: f32 = 1e-4;

/// The text of the text form, and how many ids it has with `<s>` and `</s>`.
pub(super) const TEXT: &str = "Jina Embeddings V3 is great for semantic search.";
pub(super) const TEXT_TOKENS: usize = 17;

/// First row and first column of the text form's values.
pub(super) const TEXT_ROW: usize = 1;
pub(super) const TEXT_COLUMN: usize = 1;

/// `last_hidden_state[0, 1:4, 1:10]` for [`TEXT`].
#[expect(
    clippy::approx_constant,
    reason = "-1.5708 is a published number, not π / 2"
)]
pub(super) const TEXT_ANCHORS: [(&str, [[f32; 9]; 3]); 6] = [
    (
        "raw",
        [
            [
                -3.1011, 0.8560, -0.2491, 0.9427, 1.4015, -1.1527, 1.3804, -0.5453, -1.8164,
            ],
            [
                -3.1108, 1.0107, -0.2097, 1.3495, 0.9984, -0.9518, 1.3189, -0.6295, -2.1128,
            ],
            [
                -2.7095, 0.6469, -0.4475, 1.1364, 1.5975, -0.7545, 1.0803, 0.5199, -2.3569,
            ],
        ],
    ),
    (
        "retrieval.query",
        [
            [
                -1.9765, 0.7356, -0.4414, 0.5823, 2.1507, -0.8906, 0.0233, -0.2389, -1.5708,
            ],
            [
                -2.0078, 0.9562, -0.3315, 1.0080, 1.8247, -0.6678, -0.2505, -0.3441, -1.9328,
            ],
            [
                -1.9107, 0.7120, -0.4675, 0.9436, 2.1607, -0.4170, -0.1513, 1.0063, -2.0103,
            ],
        ],
    ),
    (
        "retrieval.passage",
        [
            [
                -1.7028, 0.5688, -0.8541, 0.4696, 2.5396, -0.8374, -0.1404, -0.3123, -1.4636,
            ],
            [
                -1.6631, 0.6571, -0.8641, 0.9177, 2.3502, -0.6578, -0.3763, -0.3975, -1.7684,
            ],
            [
                -1.4739, 0.4739, -0.8745, 0.8812, 2.6848, -0.4496, -0.4964, 0.6403, -2.0821,
            ],
        ],
    ),
    (
        "separation",
        [
            [
                -3.0336, 1.4392, 0.2875, 0.7660, 0.7054, -1.1701, 1.6121, -0.6325, -1.5177,
            ],
            [
                -3.0875, 1.5134, 0.3620, 1.0281, 0.4895, -1.0484, 1.6574, -0.7636, -1.6736,
            ],
            [
                -2.7605, 1.2920, 0.2223, 0.9895, 0.8515, -0.9050, 1.5558, 0.1410, -1.8531,
            ],
        ],
    ),
    (
        "classification",
        [
            [
                -2.7150, 0.2485, 1.2297, 0.6988, 0.9804, -1.2831, 1.3446, -0.1663, -0.6874,
            ],
            [
                -2.8101, 0.1711, 1.2010, 0.9873, 0.5092, -1.3312, 1.4633, -0.2467, -0.7835,
            ],
            [
                -2.6067, 0.2362, 0.6945, 1.0134, 0.7105, -1.3767, 0.9999, 0.4427, -1.1153,
            ],
        ],
    ),
    (
        "text-matching",
        [
            [
                -1.5888, 1.0527, 0.1237, -0.0822, 1.6507, -1.0371, -0.8815, -0.8082, -0.6564,
            ],
            [
                -1.6529, 1.3143, 0.1957, 0.2914, 1.4897, -0.8735, -1.0067, -0.7544, -1.0513,
            ],
            [
                -1.5308, 1.4805, -0.1393, 0.3879, 1.4373, -0.6064, -1.6436, 0.4793, -1.3388,
            ],
        ],
    ),
];

/// Ids of the token-id form. The published test masks the first one as a key and compares rows 1 to 3.
/// Without it all positions shift by one, which rotary attention does not see: it depends on
/// differences only. So the ids without the first must give the same rows, numbered from 0.
pub(super) const TOKEN_IDS: [u32; 10] = [345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2];

/// First row and first column of the token-id form's values.
pub(super) const IDS_ROW: usize = 0;
pub(super) const IDS_COLUMN: usize = 1;

/// `last_hidden_state[0, 1:4, 1:4]` of the published ids, rows 0..3 of [`TOKEN_IDS`].
pub(super) const IDS_ANCHORS: [(&str, [[f32; 3]; 3]); 5] = [
    (
        "raw",
        [
            [-2.1561, 1.8075, -0.1943],
            [-2.0813, 1.9855, -0.2760],
            [-2.1181, 2.0043, -0.1322],
        ],
    ),
    (
        "retrieval.query",
        [
            [-1.5202, 2.4074, -0.9706],
            [-1.5279, 2.4025, -1.1237],
            [-1.5252, 2.6143, -0.9416],
        ],
    ),
    (
        "retrieval.passage",
        [
            [-1.0778, 1.8124, -0.8223],
            [-1.3796, 1.8108, -0.9868],
            [-1.1073, 1.9459, -0.8104],
        ],
    ),
    (
        "separation",
        [
            [-2.3134, 1.9034, 0.1885],
            [-2.1804, 1.9923, 0.1184],
            [-2.2325, 2.0251, 0.2533],
        ],
    ),
    (
        "classification",
        [
            [-1.9793, 2.2602, -0.17995],
            [-1.8780, 2.2660, -0.21822],
            [-1.9202, 2.4457, -0.000_228_32],
        ],
    ),
];
