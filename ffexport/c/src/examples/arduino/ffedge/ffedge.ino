// A board that learns, over its serial port. NOT BUILT: README.md says what was compiled, and why not more.
//
// Copy this folder, and into it every .h and .c file of the project's own folder. A computer sends a byte
// and an image. '?' and FF_IMAGE_BYTES: the board answers with the class's name; '!' and a label, then FF_IMAGE_BYTES:
// it learns.
extern "C" {
#include "model.h"
}

static uint32_t arena[FF_ARENA_WORDS];
static struct ff_net net;
static uint8_t image[FF_IMAGE_BYTES];
static float goodness[FF_ROWS];

void setup()
{
    float worst;
    Serial.begin(115200);
    while (!Serial) {
    }
    if (ff_init(&net, &ff_model, arena, sizeof arena) != FF_OK ||
        ff_golden(&net, &ff_golden_vectors, &worst) != FF_OK)
        Serial.println("the golden vectors are not reproduced");
    else
        Serial.println("ready");
}

void loop()
{
    uint8_t command[2];
    int32_t label;
    if (Serial.readBytes(command, 1) != 1)
        return;
    if (command[0] == '!' && Serial.readBytes(command + 1, 1) != 1)
        return;
    if (Serial.readBytes(image, sizeof image) != sizeof image)
        return;
    if (command[0] == '!') {
        Serial.println(ff_learn(&net, image, command[1]) == FF_OK ? "learned" : "refused");
    } else if (ff_classify(&net, image, goodness, &label) == FF_OK) {
        Serial.println(ff_name(&net, label));
    }
}
