int main(void) {
    for (;;);
}
