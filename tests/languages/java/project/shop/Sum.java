package shop;

class Sum {
    static int times(int a, int b) {
        return a * b;
    }
}
