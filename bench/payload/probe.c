/*
 * probe.c - the payload: one static binary, the same bytes in every backend.
 *
 * It runs as an ordinary process, as PID 1 of a PID namespace, and as PID 1 (init) of a virtual machine.  What it
 * says and answers is laid down in the docstring of this folder's __init__.py; this file is the other end of that
 * contract.  It is one process with one thread: it waits in ppoll(2), handles one request at a time, and lets signals
 * in only while it waits, so no handler ever interrupts a measured loop and no race with wait(2) can arise.
 *
 * Sections: errors and time, text and JSON, replies, children, loops, memory, where, exec, system requests,
 *           requests, guest, start.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_REQUEST = 64 << 10,     /* bytes of one request line, newline included */
    MAX_WORDS = 1024,           /* words of one request */
    MAX_OUTPUT = 1 << 20,       /* bytes kept of each output of `exec` */
    BACKED_PAGES = 16384,       /* size of the region of `loop page_fault_backed` */
    PORT_WAIT_MS = 20000,       /* bound on the wait for the virtio-serial port */
};

enum exit_code { EXIT_QUIT = 0, EXIT_USAGE = 2, EXIT_CHANNEL = 3, EXIT_GUEST = 4 };

static struct { int in, out; } channel = {STDIN_FILENO, STDOUT_FILENO};
static bool is_guest;           /* init of a virtual machine: ending means powering off */

/* ---- Errors and time ------------------------------------------------------------------------------------------- */

/* Ends the process.  An init that exits panics its kernel, so a guest is powered off instead. */
static void __attribute__((noreturn)) finish(enum exit_code code)
{
    if (is_guest) {
        sync();
        reboot(RB_POWER_OFF);
        dprintf(STDERR_FILENO, "probe: cannot power off: %s\n", strerror(errno));
    }
    _exit(code);
}

/* Says what went wrong on stderr (a guest's console) and ends. */
static void __attribute__((noreturn, format(printf, 2, 3))) die(enum exit_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    dprintf(STDERR_FILENO, "probe: ");
    vdprintf(STDERR_FILENO, format, arguments);
    dprintf(STDERR_FILENO, "\n");
    va_end(arguments);
    finish(code);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* Waits out the startup control's dose.  A sleep alone overshoots by the timer slack and the wake-up, which is as
 * much as a small dose, so the last stretch is spun. */
static void wait_out(int64_t delay_ns)
{
    const int64_t spin_ns = 200000, until_ns = now_ns() + delay_ns;
    struct timespec wake = timespec_of(until_ns - spin_ns);
    if (delay_ns > spin_ns)
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL) == EINTR)
            ;
    while (now_ns() < until_ns)
        ;
}

/* ---- Text and JSON --------------------------------------------------------------------------------------------- */

struct text {
    char *bytes;
    size_t length, capacity;
};

static void text_append(struct text *text, const void *bytes, size_t length)
{
    if (text->length + length > text->capacity) {
        size_t capacity = text->capacity ? text->capacity : 4096;
        while (capacity < text->length + length)
            capacity *= 2;
        char *grown = realloc(text->bytes, capacity);
        if (grown == NULL)
            die(EXIT_CHANNEL, "no memory for a reply of %zu bytes", capacity);
        text->bytes = grown;
        text->capacity = capacity;
    }
    if (length > 0)
        memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

static void text_free(struct text *text)
{
    free(text->bytes);
    *text = (struct text){0};
}

/* Every value goes through here: a comma is due unless it is the first one or follows its key. */
static void json_raw(struct text *json, const char *raw)
{
    if (json->length > 0 && strchr("{[:", json->bytes[json->length - 1]) == NULL)
        text_append(json, ",", 1);
    text_append(json, raw, strlen(raw));
}

static void json_close(struct text *json, char bracket) { text_append(json, &bracket, 1); }
static void json_null(struct text *json) { json_raw(json, "null"); }
static void json_bool(struct text *json, bool value) { json_raw(json, value ? "true" : "false"); }

static void json_number(struct text *json, int64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)value);
    json_raw(json, digits);
}

/* Bytes outside printable ASCII become \u00XX: Latin-1, so that any output survives the journey. */
static void json_bytes(struct text *json, const char *bytes, size_t length)
{
    json_raw(json, "\"");
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        char escaped[8];
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\')
            text_append(json, &byte, 1);
        else
            text_append(json, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", byte));
    }
    text_append(json, "\"", 1);
}

static void json_string(struct text *json, const char *string)
{
    if (string == NULL)
        json_null(json);
    else
        json_bytes(json, string, strlen(string));
}

static void json_key(struct text *json, const char *key)
{
    json_string(json, key);
    text_append(json, ":", 1);
}

static void json_key_number(struct text *json, const char *key, int64_t value)
{
    json_key(json, key);
    json_number(json, value);
}

/* ---- Replies --------------------------------------------------------------------------------------------------- */

static struct text reply;

static void succeed(void)
{
    reply.length = 0;
    json_raw(&reply, "{");
    json_key(&reply, "ok");
    json_bool(&reply, true);
}

static void __attribute__((format(printf, 1, 2))) refuse(const char *format, ...)
{
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    reply.length = 0;
    json_raw(&reply, "{");
    json_key(&reply, "ok");
    json_bool(&reply, false);
    json_key(&reply, "error");
    json_string(&reply, message);
}

/* Closes the object that `succeed` or `refuse` began and sends it as one line. */
static void send_reply(void)
{
    text_append(&reply, "}\n", 2);
    for (size_t sent = 0; sent < reply.length;) {
        ssize_t written = write(channel.out, reply.bytes + sent, reply.length - sent);
        if (written >= 0)
            sent += (size_t)written;
        else if (errno == EAGAIN)   /* whoever made the channel left it non-blocking */
            poll(&(struct pollfd){.fd = channel.out, .events = POLLOUT}, 1, -1);
        else if (errno != EINTR)
            die(EXIT_CHANNEL, "cannot write to the channel: %s", strerror(errno));
    }
    if (reply.capacity > MAX_REQUEST)   /* a large output must not weigh on the memory ledgers */
        text_free(&reply);
}

static bool parse_number(const char *word, uint64_t most, uint64_t *value)
{
    char *end;
    if (!isdigit((unsigned char)word[0]))
        return false;
    errno = 0;
    *value = strtoull(word, &end, 10);
    return errno == 0 && *end == '\0' && *value <= most;
}

/* ---- Children -------------------------------------------------------------------------------------------------- */

/* Signals are blocked but for the time spent in ppoll with `while_waiting`; handlers only make ppoll return. */
static sigset_t while_waiting;
static volatile sig_atomic_t told_to_quit;

static struct {
    pid_t pid;                  /* 0 while no `exec` runs */
    bool ended;
    int status;
    struct rusage usage;
    int64_t ended_ns;
} leader;                       /* the program of `exec` */
static struct {
    pid_t pid;                  /* 0 while there is none */
    int to, from;
} partner;                      /* the other process of `loop pipe` */

static void on_child(int number) { (void)number; }
static void on_quit(int number) { (void)number; told_to_quit = true; }

static void set_up_signals(void)
{
    sigset_t blocked;
    sigemptyset(&while_waiting);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    signal(SIGPIPE, SIG_IGN);   /* a broken channel is seen by write(2) and gets its own exit code */
    signal(SIGCHLD, on_child);  /* also undoes an inherited SIG_IGN, which would make wait(2) fail */
    if (getpid() == 1) {        /* the kernel drops signals that PID 1 has no handler for (pid_namespaces(7)) */
        sigaddset(&blocked, SIGTERM);
        sigaddset(&blocked, SIGINT);
        signal(SIGTERM, on_quit);
        signal(SIGINT, on_quit);
    }
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Collects every child that has ended: our own by name, and orphans that PID 1 was handed.  The only place that
 * waits for "any" child, so nothing is stolen from anybody. */
static void reap(void)
{
    int status;
    struct rusage usage;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        if (pid == leader.pid) {
            leader.ended_ns = now_ns();
            leader.ended = true;
            leader.status = status;
            leader.usage = usage;
        } else if (pid == partner.pid) {
            partner.pid = 0;
            close(partner.to);
            close(partner.from);
        }
    }
}

/* In a fresh child: dies with the parent, even when that one is killed. False if the parent is gone already. */
static bool tie_to_parent(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

static void __attribute__((noreturn)) run_partner(int in, int out, pid_t parent)
{
    char byte;
    if (!tie_to_parent(parent))
        _exit(1);
    while (read(in, &byte, 1) == 1 && write(out, &byte, 1) == 1)
        ;
    _exit(0);
}

static bool start_partner(void)
{
    int there[2], back[2];
    pid_t parent = getpid();
    reap();                     /* notices one that somebody killed */
    if (partner.pid != 0)
        return true;
    if (pipe2(there, O_CLOEXEC) < 0)
        return false;
    if (pipe2(back, O_CLOEXEC) < 0) {
        close(there[0]);
        close(there[1]);
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(there[1]);        /* else it would never see our end close */
        close(back[0]);
        close(channel.in);      /* nor would the host see the channel close */
        close(channel.out);
        run_partner(there[0], back[1], parent);
    }
    int error = errno;
    close(there[0]);
    close(back[1]);
    if (pid < 0) {
        close(there[1]);
        close(back[0]);
        errno = error;
        return false;
    }
    partner.pid = pid;
    partner.to = there[1];
    partner.from = back[0];
    return true;
}

/* The partner goes first, so that a cgroup is empty once we have ended. */
static void __attribute__((noreturn)) leave(void)
{
    if (partner.pid != 0) {
        close(partner.to);
        while (waitpid(partner.pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    finish(EXIT_QUIT);
}

/* ---- Memory ---------------------------------------------------------------------------------------------------- */

static const size_t page_size = 4096;   /* x86-64 */

/* A region that stays until `release`; this header lies in its first page. */
struct held {
    struct held *next;
    size_t bytes;
};
static struct held *held;

static struct {
    char *start;
    bool dirty;
} backed;

static void touch_pages(char *start, uint64_t count)
{
    for (volatile char *page = start, *end = start + count * page_size; page < end; page += page_size)
        *page = 1;
}

/* Anonymous memory in small pages only: a huge page would make one fault out of 512. */
static char *map_small_pages(uint64_t count)
{
    void *start = mmap(NULL, count * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    madvise(start, count * page_size, MADV_NOHUGEPAGE);     /* EINVAL: a kernel without huge pages, just as well */
    return start;
}

static bool hold_pages(uint64_t count)
{
    if (count == 0)
        return true;
    if (count > SIZE_MAX / 2 / page_size) {
        errno = ENOMEM;
        return false;
    }
    char *start = map_small_pages(count);
    if (start == NULL)
        return false;
    touch_pages(start, count);
    struct held *region = (struct held *)start;
    *region = (struct held){.next = held, .bytes = count * page_size};
    held = region;
    return true;
}

/*
 * Where small touches come from: it lies in the 2 MiB that the program's own data lie in, so its pages need no further
 * page table, and what was asked for is what the instance grows by.
 */
#define RESERVE_BYTES (1 << 20)
static char reserve[RESERVE_BYTES] __attribute__((aligned(1 << 16)));
static uint64_t reserve_used;

static uint64_t touch_reserve(uint64_t count)
{
    uint64_t left = (RESERVE_BYTES - reserve_used) / page_size;
    uint64_t taken = count < left ? count : left;
    touch_pages(reserve + reserve_used, taken);
    reserve_used += taken * page_size;
    return taken;
}

static void release_held(void)
{
    madvise(reserve, reserve_used, MADV_DONTNEED);
    reserve_used = 0;
    while (held != NULL) {
        struct held *next = held->next;
        munmap(held, held->bytes);
        held = next;
    }
}

/* Gives the touched pages back once the reply is out: the cost grows with the count and is no page fault. */
static void give_back_pages(void)
{
    if (backed.dirty)
        madvise(backed.start, BACKED_PAGES * page_size, MADV_DONTNEED);
    backed.dirty = false;
}

static bool make_backed_region(void)
{
    if (backed.start != NULL)
        return true;
    backed.start = map_small_pages(BACKED_PAGES);
    if (backed.start == NULL)
        return false;
    touch_pages(backed.start, BACKED_PAGES);
    backed.dirty = true;
    give_back_pages();
    return true;
}

static void handle_touch(char **words)
{
    uint64_t bytes;
    if (!parse_number(words[1], SIZE_MAX / 2, &bytes))
        return refuse("touch: %s is not a number of bytes", words[1]);
    uint64_t count = (bytes + page_size - 1) / page_size;
    if (!hold_pages(count - touch_reserve(count)))
        return refuse("touch: cannot map %s bytes: %s", words[1], strerror(errno));
    succeed();
    json_key_number(&reply, "bytes", (int64_t)bytes);
}

static void handle_release(char **words)
{
    (void)words;
    release_held();
    succeed();
}

/* ---- Loops: one operation an iteration, nothing else ----------------------------------------------------------- */

static int zero_fd = -1, null_fd = -1;

static bool no_set_up(void) { return true; }

static bool open_zero(void)
{
    return zero_fd >= 0 || (zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC)) >= 0;
}

static bool open_null(void)
{
    return null_fd >= 0 || (null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0;
}

static bool loop_getppid(uint64_t count)
{
    while (count-- > 0)
        syscall(SYS_getppid);   /* raw: no C library may answer from a cache */
    return true;
}

static bool loop_read(uint64_t count)
{
    char byte;
    while (count-- > 0)
        if (read(zero_fd, &byte, 1) != 1)
            return false;
    return true;
}

static bool loop_write(uint64_t count)
{
    while (count-- > 0)
        if (write(null_fd, "x", 1) != 1)
            return false;
    return true;
}

static bool loop_stat(uint64_t count)
{
    struct stat status;
    while (count-- > 0)
        if (stat("/", &status) < 0)
            return false;
    return true;
}

static bool loop_open_close(uint64_t count)
{
    while (count-- > 0) {
        int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || close(fd) < 0)
            return false;
    }
    return true;
}

static bool loop_pipe(uint64_t count)
{
    char byte = 'x';
    while (count-- > 0)
        if (write(partner.to, &byte, 1) != 1 || read(partner.from, &byte, 1) != 1)
            return false;
    return true;
}

static bool loop_fork_exit(uint64_t count)
{
    while (count-- > 0) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            return false;
    }
    return true;
}

static bool loop_page_fault_backed(uint64_t count)
{
    if (count > BACKED_PAGES) {
        errno = ERANGE;
        return false;
    }
    backed.dirty = backed.dirty || count > 0;
    touch_pages(backed.start, count);
    return true;
}

static bool loop_mmap(uint64_t count)
{
    while (count-- > 0) {
        void *page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED || munmap(page, page_size) < 0)
            return false;
    }
    return true;
}

static bool loop_clock_gettime(uint64_t count)
{
    struct timespec now;
    while (count-- > 0)
        if (clock_gettime(CLOCK_MONOTONIC, &now) < 0)
            return false;
    return true;
}

static const struct {
    const char *name;
    bool (*set_up)(void);       /* idempotent, untimed; false with errno */
    bool (*run)(uint64_t count);
} loops[] = {
    {"getppid", no_set_up, loop_getppid},
    {"read", open_zero, loop_read},
    {"write", open_null, loop_write},
    {"stat", no_set_up, loop_stat},
    {"open_close", no_set_up, loop_open_close},
    {"pipe", start_partner, loop_pipe},
    {"fork_exit", no_set_up, loop_fork_exit},
    {"page_fault_cold", no_set_up, hold_pages},
    {"page_fault_backed", make_backed_region, loop_page_fault_backed},
    {"mmap", no_set_up, loop_mmap},
    {"clock_gettime", no_set_up, loop_clock_gettime},
};

static void handle_loop(char **words)
{
    uint64_t iterations;
    if (!parse_number(words[2], INT64_MAX, &iterations))
        return refuse("loop: %s is not a count", words[2]);
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++) {
        if (strcmp(loops[i].name, words[1]) != 0)
            continue;
        if (!loops[i].set_up())
            return refuse("loop %s: cannot set up: %s", words[1], strerror(errno));
        errno = EIO;            /* for calls that end short without an error of their own */
        int64_t start_ns = now_ns();
        if (!loops[i].run(iterations))
            return refuse("loop %s %s: %s", words[1], words[2], strerror(errno));
        int64_t elapsed_ns = now_ns() - start_ns;
        succeed();
        json_key_number(&reply, "count", (int64_t)iterations);
        return json_key_number(&reply, "elapsed_ns", elapsed_ns);
    }
    refuse("loop: no operation named %s", words[1]);
}

/* ---- Where: what this process sees of itself and of its machine ------------------------------------------------ */

/* The whole of a file, zero-terminated, or NULL; to be freed. Files of /proc state no size, so read to the end. */
static char *read_file(const char *path)
{
    struct text text = {0};
    char chunk[4096];
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    while ((got = read(fd, chunk, sizeof chunk)) > 0)
        text_append(&text, chunk, (size_t)got);
    close(fd);
    if (got < 0) {
        text_free(&text);
        return NULL;
    }
    text_append(&text, "", 1);
    return text.bytes;
}

static char *trim(char *string)
{
    while (isspace((unsigned char)*string))
        string++;
    size_t length = strlen(string);
    while (length > 0 && isspace((unsigned char)string[length - 1]))
        string[--length] = '\0';
    return string;
}

static void where_file(const char *key, const char *path)
{
    char *content = read_file(path);
    json_key(&reply, key);
    json_string(&reply, content ? trim(content) : NULL);
    free(content);
}

/* Splits a file into a list of its pieces, or null. `content` is spoiled. */
static void where_pieces(const char *key, char *content, const char *separators)
{
    json_key(&reply, key);
    if (content == NULL)
        return json_null(&reply);
    json_raw(&reply, "[");
    for (char *rest, *piece = strtok_r(content, separators, &rest); piece; piece = strtok_r(NULL, separators, &rest))
        json_string(&reply, piece);
    json_close(&reply, ']');
}

/* The value after `name` and a colon in a file such as /proc/self/status, copied, or NULL; to be freed. */
static char *field_of(const char *content, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = content; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) != 0)
            continue;
        const char *value = line + length + strspn(line + length, " \t");
        if (*value == ':')
            return strndup(value + 1, strcspn(value + 1, "\n"));
    }
    return NULL;
}

static void where_field(const char *key, const char *content, const char *name, bool is_number)
{
    char *value = field_of(content, name);
    json_key(&reply, key);
    if (value != NULL && is_number)
        json_number(&reply, atoll(value));
    else
        json_string(&reply, value ? trim(value) : NULL);
    free(value);
}

static void where_link(const char *key, const char *path)
{
    char target[4096];
    ssize_t length = readlink(path, target, sizeof target);
    json_key(&reply, key);
    if (length < 0)
        json_null(&reply);
    else
        json_bytes(&reply, target, (size_t)length);
}

static void where_namespaces(void)
{
    static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    json_key(&reply, "namespaces");
    json_raw(&reply, "{");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[64], link[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        ssize_t length = readlink(path, link, sizeof link - 1);     /* mnt:[4026531841] */
        link[length > 0 ? length : 0] = '\0';
        char *inode = strchr(link, '[');
        json_key(&reply, names[i]);
        if (inode == NULL)
            json_null(&reply);
        else
            json_number(&reply, atoll(inode + 1));
    }
    json_close(&reply, '}');
}

/* Undoes the octal escapes of /proc/self/mounts (\040 for a space), in place. */
static char *unescape_octal(char *string)
{
    char *to = string;
    for (const char *from = string; *from != '\0'; from++, to++) {
        unsigned byte;
        *to = *from;
        if (*from == '\\' && sscanf(from + 1, "%3o", &byte) == 1) {
            *to = (char)byte;
            from += 3;
        }
    }
    *to = '\0';
    return string;
}

static void where_mounts(void)
{
    static const char *const keys[] = {"source", "target", "type", "options"};
    char *content = read_file("/proc/self/mounts");
    json_key(&reply, "mounts");
    if (content == NULL)
        return json_null(&reply);
    json_raw(&reply, "[");
    for (char *rest, *line = strtok_r(content, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_raw(&reply, "{");
        for (int i = 0; i < 4; i++) {
            char *field = strsep(&line, " ");
            json_key(&reply, keys[i]);
            json_string(&reply, field ? unescape_octal(field) : NULL);
        }
        json_close(&reply, '}');
    }
    json_close(&reply, ']');
    free(content);
}

/* Limits as resource.getrlimit has them: -1 is unlimited. */
static void where_rlimits(void)
{
    static const char *const names[RLIM_NLIMITS] = {
        [RLIMIT_CPU] = "cpu", [RLIMIT_FSIZE] = "fsize", [RLIMIT_DATA] = "data", [RLIMIT_STACK] = "stack",
        [RLIMIT_CORE] = "core", [RLIMIT_RSS] = "rss", [RLIMIT_NPROC] = "nproc", [RLIMIT_NOFILE] = "nofile",
        [RLIMIT_MEMLOCK] = "memlock", [RLIMIT_AS] = "as", [RLIMIT_LOCKS] = "locks",
        [RLIMIT_SIGPENDING] = "sigpending", [RLIMIT_MSGQUEUE] = "msgqueue", [RLIMIT_NICE] = "nice",
        [RLIMIT_RTPRIO] = "rtprio", [RLIMIT_RTTIME] = "rttime",
    };
    json_key(&reply, "rlimits");
    json_raw(&reply, "{");
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        struct rlimit limit;
        json_key(&reply, names[i]);
        if (getrlimit(i, &limit) < 0) {
            json_null(&reply);
            continue;
        }
        json_raw(&reply, "[");
        json_number(&reply, (int64_t)limit.rlim_cur);
        json_number(&reply, (int64_t)limit.rlim_max);
        json_close(&reply, ']');
    }
    json_close(&reply, '}');
}

static void where_mitigations(void)
{
    static const char folder[] = "/sys/devices/system/cpu/vulnerabilities";
    DIR *directory = opendir(folder);
    json_key(&reply, "mitigations");
    if (directory == NULL)
        return json_null(&reply);
    json_raw(&reply, "{");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[512];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        where_file(entry->d_name, path);
    }
    json_close(&reply, '}');
    closedir(directory);
}

/* What was inherited: all we open ourselves is close-on-exec, and nothing that is survives the exec of this program. */
static void where_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    json_key(&reply, "descriptors");
    if (directory == NULL)
        return json_null(&reply);
    json_raw(&reply, "[");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[512];
        int fd = atoi(entry->d_name), flags = fcntl(fd, F_GETFD);
        if (entry->d_name[0] == '.' || flags < 0 || flags & FD_CLOEXEC)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        json_raw(&reply, "{");
        json_key_number(&reply, "fd", fd);
        where_link("target", path);
        json_close(&reply, '}');
    }
    json_close(&reply, ']');
    closedir(directory);
}

/* What needs no /proc and no /sys. */
static void where_system_calls(void)
{
    struct utsname name;
    struct sysinfo machine;
    cpu_set_t affinity;
    char directory[4096];
    uname(&name);
    sysinfo(&machine);
    json_key_number(&reply, "pid", getpid());
    json_key_number(&reply, "ppid", getppid());
    json_key_number(&reply, "uid", getuid());
    json_key_number(&reply, "gid", getgid());
    json_key_number(&reply, "euid", geteuid());
    json_key(&reply, "hostname");
    json_string(&reply, name.nodename);
    json_key(&reply, "kernel");
    json_string(&reply, name.release);
    json_key(&reply, "cpus");
    if (sched_getaffinity(0, sizeof affinity, &affinity) < 0)
        json_null(&reply);
    else
        json_number(&reply, CPU_COUNT(&affinity));
    json_key_number(&reply, "page_size", sysconf(_SC_PAGESIZE));
    json_key_number(&reply, "memory_total_bytes", (int64_t)machine.totalram * machine.mem_unit);
    json_key(&reply, "cwd");    /* raw: the C library hides that a directory is unreachable */
    json_string(&reply, syscall(SYS_getcwd, directory, sizeof directory) < 0 ? NULL : directory);
    where_rlimits();
}

static void where_credentials(void)
{
    char *status = read_file("/proc/self/status");
    json_key(&reply, "capabilities");
    json_raw(&reply, "{");
    where_field("effective", status, "CapEff", false);
    where_field("permitted", status, "CapPrm", false);
    where_field("inheritable", status, "CapInh", false);
    where_field("bounding", status, "CapBnd", false);
    where_field("ambient", status, "CapAmb", false);
    json_close(&reply, '}');
    where_field("no_new_privs", status, "NoNewPrivs", true);
    where_field("seccomp", status, "Seccomp", true);
    where_field("seccomp_filters", status, "Seccomp_filters", true);
    free(status);
    where_file("uid_map", "/proc/self/uid_map");
    where_file("gid_map", "/proc/self/gid_map");
    where_file("lsm", "/proc/self/attr/current");       /* the label that AppArmor or SELinux confines us by */
}

static void where_machine(void)
{
    char *cpu = read_file("/proc/cpuinfo"), *flags = field_of(cpu, "flags");
    where_field("cpu_model", cpu, "model name", false);
    where_pieces("cpu_flags", flags, " ");
    free(flags);
    free(cpu);
    where_mitigations();
    where_file("boot_id", "/proc/sys/kernel/random/boot_id");
    where_file("clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    where_file("thp", "/sys/kernel/mm/transparent_hugepage/enabled");
}

static void handle_where(char **words)
{
    char *cgroups = read_file("/proc/self/cgroup");
    (void)words;
    succeed();
    where_system_calls();
    where_credentials();
    where_namespaces();
    where_mounts();
    where_pieces("cgroup", cgroups, "\n");
    where_descriptors();
    where_link("exe", "/proc/self/exe");
    where_machine();
    free(cgroups);
}

/* ---- Exec ------------------------------------------------------------------------------------------------------ */

struct capture {
    int fd;                     /* read end of the program's output; -1 once it has ended */
    struct text kept;
    bool truncated;
};

/* Reads once; what is over the limit is dropped, so that the program never blocks on a full pipe. */
static size_t capture_some(struct capture *capture)
{
    char chunk[65536];
    ssize_t got = read(capture->fd, chunk, sizeof chunk);
    if (got <= 0) {
        close(capture->fd);
        capture->fd = -1;
        return 0;
    }
    size_t room = MAX_OUTPUT - capture->kept.length, kept = (size_t)got < room ? (size_t)got : room;
    text_append(&capture->kept, chunk, kept);
    capture->truncated = capture->truncated || kept < (size_t)got;
    return (size_t)got;
}

/* Takes what lay in the pipe when the leader ended; a background process that still holds it is not waited for. */
static void capture_rest(struct capture *capture)
{
    int left = 0;
    if (capture->fd >= 0 && ioctl(capture->fd, FIONREAD, &left) == 0)
        while (left > 0 && capture->fd >= 0)
            left -= (int)capture_some(capture);
    if (capture->fd >= 0)
        close(capture->fd);
    capture->fd = -1;
}

/* In the child: becomes the program, or reports errno through `report`, which a successful exec closes. */
static void __attribute__((noreturn)) become(char **argv, const int stdio[3], int report, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    if (tie_to_parent(parent)) {
        for (int fd = 0; fd < 3; fd++)
            dup2(stdio[fd], fd);
        signal(SIGPIPE, SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvp(argv[0], argv);
    }
    int error = errno;
    _exit(write(report, &error, sizeof error) == sizeof error ? 127 : 126);
}

/* Starts the program as leader of its own process group. Returns 0 or an errno; fills in `leader` and the captures. */
static int start_leader(char **argv, struct capture *out, struct capture *err)
{
    int pipes[4][2];            /* stdin (empty), stdout, stderr, report */
    int error = 0, made = 0;
    pid_t parent = getpid(), pid;
    while (made < 4 && pipe2(pipes[made], O_CLOEXEC) == 0)
        made++;
    if (made < 4 || (pid = fork()) < 0) {
        error = errno;
        while (made-- > 0) {
            close(pipes[made][0]);
            close(pipes[made][1]);
        }
        return error;
    }
    if (pid == 0)
        become(argv, (const int[]){pipes[0][0], pipes[1][1], pipes[2][1]}, pipes[3][1], parent);
    close(pipes[0][0]);
    for (int i = 0; i < 4; i++)
        close(pipes[i][1]);
    if (read(pipes[3][0], &error, sizeof error) > 0) {
        waitpid(pid, NULL, 0);
        close(pipes[1][0]);
        close(pipes[2][0]);
    } else {
        error = 0;
        leader.pid = pid;
        leader.ended = false;
        out->fd = pipes[1][0];
        err->fd = pipes[2][0];
    }
    close(pipes[3][0]);
    return error;
}

/* Drains both outputs until the leader has ended. Its group is killed at the deadline, and also when nobody is left
 * to reply to (the reader of the channel has gone, or PID 1 was told to quit). Returns whether it ran out of time. */
static bool await_leader(int64_t deadline_ns, struct capture *out, struct capture *err)
{
    bool timed_out = false, killed = false;
    while (!leader.ended) {
        struct pollfd fds[] = {{.fd = out->fd, .events = POLLIN},
                               {.fd = err->fd, .events = POLLIN},
                               {.fd = killed ? -1 : channel.out, .events = 0}};
        int64_t left_ns = deadline_ns - now_ns();
        struct timespec left = timespec_of(left_ns > 0 ? left_ns : 0);
        int ready = ppoll(fds, 3, killed ? NULL : &left, &while_waiting);
        if (ready > 0 && fds[0].revents)
            capture_some(out);
        if (ready > 0 && fds[1].revents)
            capture_some(err);
        reap();
        if (!leader.ended && !killed && (left_ns <= 0 || told_to_quit || (ready > 0 && fds[2].revents))) {
            timed_out = left_ns <= 0;
            killed = true;
            kill(-leader.pid, SIGKILL);
        }
    }
    return timed_out;
}

static void exec_reply(bool timed_out, int64_t start_ns, const struct capture *out, const struct capture *err)
{
    const struct timeval user = leader.usage.ru_utime, system = leader.usage.ru_stime;
    succeed();
    json_key(&reply, "code");
    if (WIFEXITED(leader.status))
        json_number(&reply, WEXITSTATUS(leader.status));
    else
        json_null(&reply);
    json_key(&reply, "signal");
    if (WIFSIGNALED(leader.status))
        json_number(&reply, WTERMSIG(leader.status));
    else
        json_null(&reply);
    json_key(&reply, "timeout");
    json_bool(&reply, timed_out);
    json_key(&reply, "stdout");
    json_bytes(&reply, out->kept.bytes, out->kept.length);
    json_key(&reply, "stderr");
    json_bytes(&reply, err->kept.bytes, err->kept.length);
    json_key(&reply, "truncated");
    json_bool(&reply, out->truncated || err->truncated);
    json_key_number(&reply, "elapsed_ns", leader.ended_ns - start_ns);
    json_key_number(&reply, "cpu_ns", (user.tv_sec + system.tv_sec) * 1000000000LL +
                                          (user.tv_usec + system.tv_usec) * 1000LL);
}

static void handle_exec(char **words)
{
    struct capture out = {.fd = -1}, err = {.fd = -1};
    uint64_t timeout_ms;
    if (!parse_number(words[1], INT32_MAX, &timeout_ms))
        return refuse("exec: %s is not a time limit in milliseconds", words[1]);
    int64_t start_ns = now_ns();
    int error = start_leader(words + 2, &out, &err);
    if (error != 0)
        return refuse("exec: cannot run %s: %s", words[2], strerror(error));
    bool timed_out = await_leader(start_ns + (int64_t)timeout_ms * 1000000, &out, &err);
    capture_rest(&out);
    capture_rest(&err);
    exec_reply(timed_out, start_ns, &out, &err);
    leader.pid = 0;
    text_free(&out.kept);
    text_free(&err.kept);
}

/* ---- System requests ------------------------------------------------------------------------------------------- */

/* Makes a directory and its parents. */
static bool make_directories(const char *path)
{
    char partial[4096];
    size_t length = strlen(path);
    if (length >= sizeof partial) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(partial, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        partial[i] = '\0';
        if (mkdir(partial, 0755) < 0 && errno != EEXIST)
            return false;
        partial[i] = path[i];
    }
    return true;
}

static void handle_mount(char **words)
{
    const char *source = words[1], *target = words[2], *type = words[3];
    const char *data = strcmp(words[5], "-") == 0 ? NULL : words[5];
    uint64_t flags;
    if (!parse_number(words[4], UINT32_MAX, &flags))
        return refuse("mount: %s is not a number of flags", words[4]);
    if (!make_directories(target))
        return refuse("mount: cannot make directory %s: %s", target, strerror(errno));
    if (mount(source, target, type, flags, data) < 0)
        return refuse("mount: cannot mount %s (%s) on %s: %s", source, type, target, strerror(errno));
    succeed();
}

static void handle_umount(char **words)
{
    if (umount2(words[1], 0) < 0)
        return refuse("umount: cannot unmount %s: %s", words[1], strerror(errno));
    succeed();
}

static bool load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool loaded = syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST;
    int error = errno;
    close(fd);
    errno = error;
    return loaded;
}

static void handle_insmod(char **words)
{
    if (!load_module(words[1]))
        return refuse("insmod: cannot load %s: %s", words[1], strerror(errno));
    succeed();
}

static void handle_sync(char **words)
{
    (void)words;
    sync();
    succeed();
}

/* Own time and that of every child collected so far. */
static void handle_rusage(char **words)
{
    struct rusage own, children;
    (void)words;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    succeed();
    json_key_number(&reply, "user_ns", (own.ru_utime.tv_sec + children.ru_utime.tv_sec) * 1000000000LL +
                                           (own.ru_utime.tv_usec + children.ru_utime.tv_usec) * 1000LL);
    json_key_number(&reply, "system_ns", (own.ru_stime.tv_sec + children.ru_stime.tv_sec) * 1000000000LL +
                                             (own.ru_stime.tv_usec + children.ru_stime.tv_usec) * 1000LL);
}

static void handle_quit(char **words)
{
    (void)words;
    leave();
}

/* ---- Requests -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *usage;
    int least, most;            /* words, the name included */
    void (*handle)(char **words);
} requests[] = {
    {"loop", "NAME COUNT", 3, 3, handle_loop},
    {"touch", "BYTES", 2, 2, handle_touch},
    {"release", "", 1, 1, handle_release},
    {"where", "", 1, 1, handle_where},
    {"exec", "TIMEOUT_MS WORD...", 3, MAX_WORDS, handle_exec},
    {"mount", "SOURCE TARGET TYPE FLAGS DATA", 6, 6, handle_mount},
    {"umount", "TARGET", 2, 2, handle_umount},
    {"insmod", "PATH", 2, 2, handle_insmod},
    {"sync", "", 1, 1, handle_sync},
    {"rusage", "", 1, 1, handle_rusage},
    {"quit", "", 1, 1, handle_quit},
};

static int hex_value(char digit)
{
    static const char digits[] = "0123456789abcdef";
    const char *found = digit ? strchr(digits, tolower((unsigned char)digit)) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* Undoes percent-encoding in place. False on a broken escape or a zero byte, which no C string can hold. */
static bool decode(char *word)
{
    char *to = word;
    for (const char *from = word; *from != '\0'; from++, to++) {
        *to = *from;
        if (*from != '%')
            continue;
        int high = hex_value(from[1]), low = high < 0 ? -1 : hex_value(from[2]);
        if (low < 0 || (high | low) == 0)
            return false;
        *to = (char)(high << 4 | low);
        from += 2;
    }
    *to = '\0';
    return true;
}

/* One request line without its newline, spoiled. The reply is left in `reply`. */
static void handle_line(char *line, size_t length)
{
    char *words[MAX_WORDS + 1];
    int count = 0;
    if (memchr(line, '\0', length) != NULL)
        return refuse("a zero byte in the request");
    for (char *rest = line; rest != NULL;) {
        if (count == MAX_WORDS)
            return refuse("more than %d words in the request", MAX_WORDS);
        words[count] = strsep(&rest, " ");      /* exactly one space: a word may be empty */
        if (!decode(words[count++]))
            return refuse("word %d of the request is not percent-encoded text", count);
    }
    words[count] = NULL;
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        if (strcmp(requests[i].name, words[0]) != 0)
            continue;
        if (count < requests[i].least || count > requests[i].most)
            return refuse("usage: %s %s", requests[i].name, requests[i].usage);
        return requests[i].handle(words);
    }
    refuse("unknown request: %.100s", words[0]);
}

static void answer(char *line, size_t length)
{
    line[length] = '\0';
    handle_line(line, length);
    send_reply();
    give_back_pages();
    reap();                     /* ppoll lets no signal in while requests queue up */
}

/* Waits until the channel has something to read, reaping meanwhile. */
static void await_request(void)
{
    struct pollfd fd = {.fd = channel.in, .events = POLLIN};
    while (ppoll(&fd, 1, NULL, &while_waiting) < 0 && errno == EINTR) {
        reap();
        if (told_to_quit)
            leave();
    }
}

static void __attribute__((noreturn)) serve(void)
{
    static char buffer[MAX_REQUEST];
    size_t filled = 0;
    bool too_long = false;      /* the rest of a line that did not fit is being dropped */
    for (;;) {
        await_request();
        ssize_t got = read(channel.in, buffer + filled, sizeof buffer - filled);
        if (got == 0)
            leave();
        if (got < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            die(EXIT_CHANNEL, "cannot read from the channel: %s", strerror(errno));
        }
        filled += (size_t)got;
        for (char *newline; (newline = memchr(buffer, '\n', filled)) != NULL;) {
            size_t length = (size_t)(newline - buffer);
            if (!too_long)
                answer(buffer, length);
            too_long = false;
            filled -= length + 1;
            memmove(buffer, newline + 1, filled);
        }
        if (filled == sizeof buffer) {
            if (!too_long) {
                refuse("request longer than %d bytes", MAX_REQUEST);
                send_reply();
            }
            too_long = true;
            filled = 0;
        }
    }
}

/* ---- Guest: init of a virtual machine -------------------------------------------------------------------------- */

static void mount_pseudo(const char *type, const char *target)
{
    if (!make_directories(target) || (mount(type, target, type, 0, NULL) < 0 && errno != EBUSY))
        die(EXIT_GUEST, "cannot mount %s on %s: %s", type, target, strerror(errno));
}

/* Descriptors 0, 1 and 2: the console if the kernel has one, else its log, so that errors are seen somewhere. */
static void open_console(void)
{
    if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
        return;
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        fd = open("/dev/kmsg", O_RDWR);
    for (int copy = fd; copy >= 0 && copy < STDERR_FILENO;)
        copy = dup(fd);
}

/* Loads what the image lists, in order. No list: the kernel has all built in. */
static void load_boot_modules(void)
{
    char *list = read_file("/modules/boot"), *rest;
    if (list == NULL && errno != ENOENT)
        die(EXIT_GUEST, "cannot read /modules/boot: %s", strerror(errno));
    for (char *path = list ? strtok_r(list, "\n", &rest) : NULL; path; path = strtok_r(NULL, "\n", &rest))
        if (!load_module(path))
            die(EXIT_GUEST, "cannot load module %s: %s", path, strerror(errno));
    free(list);
}

/* The device file of the virtio-serial port of that name, or -1 with errno ENOENT while there is none. */
static int open_port(const char *wanted)
{
    static const char folder[] = "/sys/class/virtio-ports";
    DIR *directory = opendir(folder);
    int fd = -1;
    if (directory == NULL)
        return -1;
    errno = ENOENT;
    for (struct dirent *entry; fd < 0 && (entry = readdir(directory)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s/name", folder, entry->d_name);
        char *name = entry->d_name[0] == '.' ? NULL : read_file(path);
        if (name != NULL && strcmp(trim(name), wanted) == 0) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            fd = open(path, O_RDWR | O_CLOEXEC);
            if (fd < 0)
                die(EXIT_GUEST, "cannot open %s: %s", path, strerror(errno));
        }
        free(name);
    }
    closedir(directory);
    return fd;
}

/* A socket on which the kernel announces devices (kobject_uevent(3)). */
static int open_uevents(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(EXIT_GUEST, "cannot listen for device events: %s", strerror(errno));
    return fd;
}

/* The port appears, and later its name, when the host's messages arrive, after the driver has loaded; both are
 * announced. `uevents` was opened before the driver was loaded, so nothing can be missed between look and wait. */
static int await_port(int uevents, const char *name)
{
    const int64_t deadline_ns = now_ns() + PORT_WAIT_MS * 1000000LL;
    int port;
    while ((port = open_port(name)) < 0) {
        bool announced = false;
        while (!announced) {
            char message[4096];
            int64_t left_ms = (deadline_ns - now_ns()) / 1000000;
            if (left_ms <= 0 || poll(&(struct pollfd){.fd = uevents, .events = POLLIN}, 1, (int)left_ms) == 0)
                die(EXIT_GUEST, "no virtio-serial port named %s after %d ms", name, PORT_WAIT_MS);
            ssize_t got = recv(uevents, message, sizeof message, MSG_DONTWAIT);
            announced = got < 0 ? errno == ENOBUFS      /* some were lost: look */
                                : memmem(message, (size_t)got, "virtio-ports", 12) != NULL;
        }
    }
    return port;
}

static void enter_guest(void)
{
    if (getpid() != 1)          /* else `quit` would power off the machine of whoever typed this */
        die(EXIT_USAGE, "guest=1 is for init of a virtual machine only (PID 1)");
    is_guest = true;
    mount_pseudo("devtmpfs", "/dev");
    open_console();
    mount_pseudo("proc", "/proc");
    mount_pseudo("sysfs", "/sys");
    int uevents = open_uevents();
    load_boot_modules();
    channel.in = channel.out = await_port(uevents, "tare");
    close(uevents);
}

/* ---- Start ----------------------------------------------------------------------------------------------------- */

struct options {
    const char *nonce;
    int64_t delay_ns;
    bool guest;
};

/* Makes no system call unless the words are wrong. */
static struct options parse_options(int argc, char **argv)
{
    struct options options = {0};
    const char *wrong = NULL;
    for (int i = 1; i < argc; i++) {
        uint64_t number;
        if (strncmp(argv[i], "nonce=", 6) == 0 && argv[i][6 + strspn(argv[i] + 6, "0123456789abcdefABCDEF")] == '\0')
            options.nonce = argv[i] + 6;
        else if (strncmp(argv[i], "delay_ns=", 9) == 0 && parse_number(argv[i] + 9, INT64_MAX / 2, &number))
            options.delay_ns = (int64_t)number;
        else if (strcmp(argv[i], "guest=1") == 0)
            options.guest = true;
        else
            wrong = argv[i];
    }
    bool has_nonce = options.nonce != NULL && strlen(options.nonce) >= 1 && strlen(options.nonce) <= 128;
    if (wrong == NULL && has_nonce)
        return options;
    is_guest = options.guest && getpid() == 1;      /* an init must not just exit */
    if (wrong != NULL)
        die(EXIT_USAGE, "unknown word %s; usage: probe nonce=HEX [delay_ns=N] [guest=1]", wrong);
    die(EXIT_USAGE, "a nonce of 1 to 128 hex digits is needed; usage: probe nonce=HEX [delay_ns=N] [guest=1]");
}

int main(int argc, char **argv)
{
    struct options options = parse_options(argc, argv);
    if (options.guest)
        enter_guest();
    if (options.delay_ns > 0)
        wait_out(options.delay_ns);
    if (write(channel.out, "T", 1) != 1)
        die(EXIT_CHANNEL, "cannot write to the channel: %s", strerror(errno));

    char greeting[160];
    int length = snprintf(greeting, sizeof greeting, "are/1 %s\n", options.nonce);
    set_up_signals();
    if (write(channel.out, greeting, (size_t)length) != length)
        die(EXIT_CHANNEL, "cannot write to the channel: %s", strerror(errno));
    if (fcntl(STDERR_FILENO, F_GETFD) < 0)      /* else a pipe of ours would land on it */
        open("/dev/null", O_WRONLY);
    if (getenv("PATH") == NULL)                 /* a kernel gives its init none */
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    serve();
}
