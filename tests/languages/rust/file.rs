fn main() {
    std::fs::write("out.txt", "made by rust\n").unwrap();
}
