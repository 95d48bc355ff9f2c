// Runs one call of the native library that test_arm.py has written to a file, and writes the memory back.
//
// native_call FILE [fork]. The file holds int64: number of pointers, size of the description, size of the memory; then
// where the pointers are in the description (each an offset into the memory, or -1), the description, the memory, and
// the name of the entry point. With "fork" the call is made twice, the second time by a forked child.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define ENTRIES(X)                                                                                          \
    X(scan_forward) X(scan_backward) X(gated_norm_forward) X(gated_norm_backward) X(depthwise_silu_forward) \
    X(depthwise_silu_backward) X(instance_norm_forward) X(instance_norm_backward)
#define DECLARE(name) extern "C" void slicemamba_##name(const void*);
#define NAME(name) {"slicemamba_" #name, slicemamba_##name},
ENTRIES(DECLARE)

static void read(void* to, size_t size, FILE* file) {
    if (fread(to, 1, size, file) != size) abort();
}

int main(int argc, char** argv) {
    const std::map<std::string, void (*)(const void*)> entries{ENTRIES(NAME)};
    FILE* file = fopen(argv[1], "r+b");
    int64_t sizes[3];
    read(sizes, sizeof sizes, file);
    std::vector<int64_t> pointers(sizes[0]);
    std::vector<char> description(sizes[1]);
    char* memory = static_cast<char*>(aligned_alloc(64, (sizes[2] + 63) / 64 * 64));
    read(pointers.data(), sizes[0] * sizeof(int64_t), file);
    read(description.data(), sizes[1], file);
    const long at = ftell(file);
    read(memory, sizes[2], file);
    char name[64] = {};
    if (!fgets(name, sizeof name, file)) abort();
    for (const int64_t place : pointers) {
        int64_t offset;
        memcpy(&offset, &description[place], sizeof offset);
        char* pointer = offset < 0 ? nullptr : memory + offset;
        memcpy(&description[place], &pointer, sizeof pointer);
    }
    entries.at(name)(description.data());
    if (argc > 2) {
        const pid_t child = fork();
        if (child) {
            int status;
            waitpid(child, &status, 0);
            return status;
        }
        entries.at(name)(description.data());
    }
    fseek(file, at, SEEK_SET);
    const bool written = fwrite(memory, 1, sizes[2], file) == static_cast<size_t>(sizes[2]);
    return fclose(file) || !written;
}
