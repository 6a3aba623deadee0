/* Shifts the wall clock of the process that it is preloaded into, by what a file says at every moment.
 *
 * CHAOS_CLOCKS is a directory with a file for each program, of its name; "others" is for the rest. A file has the shift
 * in nanoseconds, 8 bytes, and whoever writes it steps the clocks of all that run. Monotonic clocks go on as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile const int64_t *shift;

static int open_clock(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

__attribute__((constructor)) static void find_clock(void)
{
    const char *directory = getenv("CHAOS_CLOCKS");
    if (directory == NULL)
        return;
    int file = open_clock(directory, program_invocation_short_name);
    if (file < 0)
        file = open_clock(directory, "others");
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        shift = mapped;
}

static void add(struct timespec *instant, int64_t nanoseconds)
{
    int64_t sum = instant->tv_sec * SECOND + instant->tv_nsec + nanoseconds;
    instant->tv_sec = sum / SECOND;
    instant->tv_nsec = sum % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *instant)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, instant);
    if (!failed && shift != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(instant, *shift);
    return failed;
}

int gettimeofday(struct timeval *restrict instant, void *restrict zone)
{
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    instant->tv_sec = exact.tv_sec;
    instant->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (seconds != NULL)
        *seconds = exact.tv_sec;
    return exact.tv_sec;
}

/* Waits until an instant of the wall clock: some builds of Python wait for their locks so. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    static int (*wait)(sem_t *, const struct timespec *);
    if (wait == NULL)
        wait = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec unshifted = *until;
    if (shift != NULL)
        add(&unshifted, -*shift);
    return wait(semaphore, &unshifted);
}
