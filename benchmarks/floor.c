/* The floor: start /bin/true and wait for it, a few at a time, and do nothing else. Prints processes a second. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int count = atoi(argv[1]), in_flight_max = atoi(argv[2]), in_flight = 0;
    char *command[] = {"/bin/true", NULL};
    double begin = now();
    for (int started = 0; started < count || in_flight > 0;) {
        if (started < count && in_flight < in_flight_max) {
            pid_t pid;
            if (posix_spawn(&pid, command[0], NULL, NULL, command, environ) != 0) return 1;
            started++;
            in_flight++;
        } else {
            int status;
            if (wait(&status) < 0 || status != 0) return 1;
            in_flight--;
        }
    }
    printf("%f\n", count / (now() - begin));
    return 0;
}
