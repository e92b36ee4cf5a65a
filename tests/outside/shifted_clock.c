/* A clock that is ahead, for nats_check.py: loaded before the C library, it adds $SHIFTED_CLOCK seconds to the time of day.
 * Clocks that only measure stay as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static long shift;
    if (real == NULL) {
        const char *seconds = getenv("SHIFTED_CLOCK");
        shift = seconds == NULL ? 0 : atol(seconds);
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int answer = real(clock, time);
    if (answer == 0 && clock == CLOCK_REALTIME) time->tv_sec += shift;
    return answer;
}
