/* The functions of Microsoft's libk4a that the driver calls, with the interface of its k4a.h and
 * k4atypes.h, and no device: images and calibration come from the files color (BGRA, 1280x720),
 * depth (uint16, 640x576) and calibration in the folder $K4A_DOUBLE.
 *
 * $K4A_DOUBLE_COUNT devices are plugged in, with serial numbers 000000, 000001, ...; -1 stands for
 * one that another program holds. After $K4A_DOUBLE_CAPTURES captures the device is gone. Every
 * seventh capture lacks its depth image, every fifth call times out.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    int color_format, color_resolution, depth_mode, camera_fps;
    bool synchronized_images_only;
    int32_t depth_delay_off_color_usec;
    int wired_sync_mode;
    uint32_t subordinate_delay_off_master_usec;
    bool disable_streaming_indicator;
} k4a_device_configuration_t;

typedef struct { int index, started, captures, calls; } device_t;
typedef struct { uint64_t usec; int has_depth; } capture_t;
typedef struct { uint8_t *data; size_t size; int width, height, stride; uint64_t usec; } image_t;

static int number(const char *name) { return atoi(getenv(name) ? getenv(name) : "0"); }

static uint8_t *contents(const char *name, size_t *size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("K4A_DOUBLE"), name);
    FILE *file = fopen(path, "rb");
    if (!file) abort();
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*size);
    if (fread(data, 1, *size, file) != *size) abort();
    fclose(file);
    return data;
}

uint32_t k4a_device_get_installed_count(void) { return (uint32_t)abs(number("K4A_DOUBLE_COUNT")); }

int k4a_device_open(uint32_t index, void **device)
{
    if ((int)index >= number("K4A_DOUBLE_COUNT")) return 1;
    device_t *opened = calloc(1, sizeof *opened);
    opened->index = (int)index;
    *device = opened;
    return 0;
}

void k4a_device_close(void *device) { free(device); }

static int text(const uint8_t *from, size_t needed, char *to, size_t *size)
{
    int fits = to && *size >= needed;
    *size = needed;
    if (!fits) return 2;
    memcpy(to, from, needed);
    return 0;
}

int k4a_device_get_serialnum(void *device, char *serial, size_t *size)
{
    char own[16];
    snprintf(own, sizeof own, "%06d", ((device_t *)device)->index);
    return text((uint8_t *)own, strlen(own) + 1, serial, size);
}

int k4a_device_get_raw_calibration(void *device, char *data, size_t *size)
{
    size_t needed;
    uint8_t *own = contents("calibration", &needed);
    int result = text(own, needed, data, size);
    (void)device;
    free(own);
    return result;
}

int k4a_device_start_cameras(void *device, const k4a_device_configuration_t *config)
{
    /* BGRA32, 720P, NFOV_UNBINNED, 30 frames/s, both images: all else is refused. */
    if (config->color_format != 3 || config->color_resolution != 1 || config->depth_mode != 2 ||
        config->camera_fps != 2 || !config->synchronized_images_only || config->wired_sync_mode ||
        config->disable_streaming_indicator)
        return 1;
    ((device_t *)device)->started = 1;
    return 0;
}

void k4a_device_stop_cameras(void *device) { ((device_t *)device)->started = 0; }

int k4a_device_get_capture(void *handle, void **capture, int32_t timeout_ms)
{
    device_t *device = handle;
    if (!device->started || device->captures >= number("K4A_DOUBLE_CAPTURES")) return 1;
    if (++device->calls % 5 == 0) return 2;
    int wait_ms = timeout_ms < 33 ? timeout_ms : 33;
    nanosleep(&(struct timespec){0, wait_ms * 1000000L}, NULL);
    capture_t *made = malloc(sizeof *made);
    made->usec = 33333u * (uint64_t)++device->captures;
    made->has_depth = device->captures % 7 != 0;
    *capture = made;
    return 0;
}

void k4a_capture_release(void *capture) { free(capture); }

static void *image(const char *name, int width, int height, int stride, uint64_t usec)
{
    image_t *made = malloc(sizeof *made);
    *made = (image_t){NULL, 0, width, height, stride, usec};
    made->data = contents(name, &made->size);
    return made;
}

void *k4a_capture_get_color_image(void *capture)
{
    return image("color", 1280, 720, 5120, ((capture_t *)capture)->usec);
}

void *k4a_capture_get_depth_image(void *handle)
{
    capture_t *capture = handle;
    return capture->has_depth ? image("depth", 640, 576, 1280, capture->usec + 125) : NULL;
}

void k4a_image_release(void *image) { free(((image_t *)image)->data); free(image); }
uint8_t *k4a_image_get_buffer(void *image) { return ((image_t *)image)->data; }
size_t k4a_image_get_size(void *image) { return ((image_t *)image)->size; }
int k4a_image_get_width_pixels(void *image) { return ((image_t *)image)->width; }
int k4a_image_get_height_pixels(void *image) { return ((image_t *)image)->height; }
int k4a_image_get_stride_bytes(void *image) { return ((image_t *)image)->stride; }
uint64_t k4a_image_get_device_timestamp_usec(void *image) { return ((image_t *)image)->usec; }
