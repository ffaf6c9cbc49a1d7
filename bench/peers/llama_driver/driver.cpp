// llama.cpp's side of bench/peers/run.py: loads a GGUF and LoRA files once, then answers each JSON line on
// stdin with one on stdout; bench/peers/README.md has the protocol.
//
//   llama_driver --model BASE.gguf --threads N [--lora TASK=FILE.gguf]...
//   llama_driver --quantize BASE.gguf OUT.gguf        f32 to q8_0
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

using nlohmann::json;
using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Tokens that a context has room for: the small one serves all but long texts, its attention scratch stays small.
static const int SMALL_CONTEXT = 2048, LARGE_CONTEXT = 8192;
// Sequences are packed into one batch up to this many tokens: attention runs over the whole batch and masks it.
static const int PACKED_TOKENS = 512;

struct Peer {
    llama_model * model = nullptr;
    std::map<int, llama_context *> contexts;
    std::map<std::string, llama_adapter_lora *> adapters;
    int threads = 1;
    llama_flash_attn_type flash = LLAMA_FLASH_ATTN_TYPE_AUTO;

    llama_context * context(int tokens) {
        const int size = tokens <= SMALL_CONTEXT ? SMALL_CONTEXT : LARGE_CONTEXT;
        if (!contexts.count(size)) {
            llama_context_params params = llama_context_default_params();
            params.n_ctx = params.n_batch = params.n_ubatch = size;
            params.n_seq_max = 64;
            params.n_threads = params.n_threads_batch = threads;
            params.pooling_type = LLAMA_POOLING_TYPE_MEAN;
            params.embeddings = true;
            params.flash_attn_type = flash;
            params.kv_unified = true;  // every sequence may be as long as the context
            llama_context * made = llama_init_from_model(model, params);
            if (!made) throw std::runtime_error("no context");
            contexts[size] = made;
        }
        return contexts[size];
    }

    // One batch of sequences that share a task; writes their vectors.
    void run(const std::vector<std::vector<llama_token>> & sequences, const std::vector<int> & rows,
             const std::string & task, std::vector<std::vector<float>> & vectors) {
        int tokens = 0;
        for (int row : rows) tokens += (int) sequences[row].size();
        llama_context * ctx = context(tokens);
        llama_adapter_lora * adapter = adapters.count(task) ? adapters[task] : nullptr;
        if (!adapter && task != "raw") throw std::runtime_error("no LoRA for " + task);
        float scale = 1.0f;
        llama_set_adapters_lora(ctx, &adapter, adapter ? 1 : 0, &scale);
        llama_batch batch = llama_batch_init(tokens, 0, 1);
        for (int s = 0; s < (int) rows.size(); s++) {
            const auto & ids = sequences[rows[s]];
            for (int p = 0; p < (int) ids.size(); p++) {
                const int i = batch.n_tokens++;
                batch.token[i] = ids[p];
                batch.pos[i] = p;
                batch.n_seq_id[i] = 1;
                batch.seq_id[i][0] = s;
                batch.logits[i] = 1;
            }
        }
        const int rc = llama_encode(ctx, batch);
        llama_batch_free(batch);
        if (rc != 0) throw std::runtime_error("llama_encode gave " + std::to_string(rc));
        const int width = llama_model_n_embd(model);
        for (int s = 0; s < (int) rows.size(); s++) {
            const float * row = llama_get_embeddings_seq(ctx, s);
            double square = 0;
            for (int j = 0; j < width; j++) square += (double) row[j] * row[j];
            const float factor = (float) (1.0 / std::sqrt(square));
            vectors[rows[s]].resize(width);
            for (int j = 0; j < width; j++) vectors[rows[s]][j] = row[j] * factor;
        }
    }

    json answer(const json & request) {
        const auto sequences = request["sequences"].get<std::vector<std::vector<llama_token>>>();
        const auto tasks = request["tasks"].get<std::vector<std::string>>();
        const bool packed = request.value("mode", "singly") != "singly";
        std::vector<std::vector<float>> vectors(sequences.size());
        size_t longest = 0;
        for (const auto & ids : sequences) longest = std::max(longest, ids.size());
        context(std::max<int>((int) longest, PACKED_TOKENS));  // made outside the timed part
        const auto start = Clock::now();
        std::vector<int> order(sequences.size());
        std::iota(order.begin(), order.end(), 0);
        // By task, so that adapters are switched once; then by length.
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            return tasks[a] != tasks[b] ? tasks[a] < tasks[b] : sequences[a].size() < sequences[b].size();
        });
        std::vector<int> rows;
        size_t tokens = 0;
        for (size_t i = 0; i <= order.size(); i++) {
            const bool end = i == order.size();
            const size_t next = end ? 0 : sequences[order[i]].size();
            if (!rows.empty() && (end || !packed || tasks[order[i]] != tasks[rows[0]] || tokens + next > PACKED_TOKENS)) {
                run(sequences, rows, tasks[rows[0]], vectors);
                rows.clear();
                tokens = 0;
            }
            if (!end) {
                rows.push_back(order[i]);
                tokens += next;
            }
        }
        json out = {{"seconds", seconds_since(start)}};
        if (request.value("vectors", false)) out["vectors"] = vectors;
        return out;
    }
};

int main(int argc, char ** argv) {
    const auto start = Clock::now();
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    if (argc == 4 && std::string(argv[1]) == "--quantize") {
        llama_model_quantize_params params = llama_model_quantize_default_params();
        params.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
        return (int) llama_model_quantize(argv[2], argv[3], &params);
    }
    Peer peer;
    std::string model, flash = "auto", repacked = "on";
    std::vector<std::string> loras;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string flag = argv[i], value = argv[i + 1];
        if (flag == "--model") model = value;
        else if (flag == "--threads") peer.threads = std::stoi(value);
        else if (flag == "--lora") loras.push_back(value);
        else if (flag == "--flash") flash = value;
        else if (flag == "--repacked") repacked = value;
        else throw std::runtime_error("unknown flag " + flag);
    }
    peer.flash = flash == "on" ? LLAMA_FLASH_ATTN_TYPE_ENABLED
               : flash == "off" ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_AUTO;
    llama_model_params params = llama_model_default_params();
    params.use_extra_bufts = repacked == "on";
    peer.model = llama_model_load_from_file(model.c_str(), params);
    if (!peer.model) throw std::runtime_error("cannot load " + model);
    for (const auto & lora : loras) {
        const auto cut = lora.find('=');
        llama_adapter_lora * adapter = llama_adapter_lora_init(peer.model, lora.substr(cut + 1).c_str());
        if (!adapter) throw std::runtime_error("cannot load " + lora);
        peer.adapters[lora.substr(0, cut)] = adapter;
    }
    peer.context(1);
    std::cout << json{{"versions", "llama.cpp"}, {"load_s", seconds_since(start)},
                      {"system", llama_print_system_info()}} << std::endl;
    std::string line;
    while (std::getline(std::cin, line)) std::cout << peer.answer(json::parse(line)) << std::endl;
    return 0;
}
