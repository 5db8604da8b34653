/* A board that runs examples/arduino on this machine, until stdin ends. */
#include "Arduino.h"

#include <stdio.h>

void setup();
void loop();

Port Serial;

void Port::begin(unsigned long baud)
{
    (void)baud;
}

Port::operator bool()
{
    return true;
}

size_t Port::readBytes(uint8_t *bytes, size_t count)
{
    return fread(bytes, 1, count, stdin);
}

size_t Port::println(const char *text)
{
    return (size_t)printf("%s\n", text);
}

int main()
{
    setup();
    while (!feof(stdin))
        loop();
    return 0;
}
