class Broken {
    int a = "no";
}
