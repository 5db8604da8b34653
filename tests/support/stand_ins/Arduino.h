/* A stand-in of what examples/arduino calls: a serial port over stdin and stdout, as Arduino's reference describes it. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

class Port {
public:
    void begin(unsigned long baud);
    operator bool();
    size_t readBytes(uint8_t *bytes, size_t count);
    size_t println(const char *text);
};

extern Port Serial;

#endif
